"""What is kept of a dense model's predictions, and how far a smaller model's are from them.

The distance is the forward Kullback-Leibler divergence KL(teacher ‖ student): distillation learns by it (Hinton et al.,
https://arxiv.org/abs/1503.02531), and trials of allocations are judged by it. Of the teacher's distribution the K
likeliest tokens are kept, and all others count as one more outcome: that is the divergence of the two coarser
distributions, a lower bound that is zero only where those agree, and unlike renormalised top-K it sees mass that leaks
to the rest.

Shapes: B rows · T tokens · P positions that count, b of a block · V vocabulary · K tokens kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from slimgpt.evaluation.vocabulary import BlockLoss, LogProb, Slope, blocks

LEAST = 1e-7  # of a probability that is one minus a sum: about float32's resolution


class Targets(NamedTuple):
    """The teacher's predictions at P positions.

    Attributes:
        log_prob_PK: log-probabilities of the likeliest tokens at temperature τ, float16: most exact where they count.
        token_PK: which tokens these are, int32.
        log_rest_P: log of the mass of all others, float32.
    """

    log_prob_PK: Tensor
    token_PK: Tensor
    log_rest_P: Tensor

    def at(self, positions: slice) -> Targets:
        """Those of some of the positions."""
        return Targets(*(tensor[positions] for tensor in self))


def targets_of(logits_BTV: Tensor, counts_BT: Tensor, num_kept: int, temperature: float) -> Targets:
    """What is kept of a teacher's logits at the positions that count (bool, no longer than the rows); of all tokens
    where the vocabulary is smaller than ``num_kept``."""
    logits_NV = logits_BTV.flatten(0, 1)
    positions = (position_b for _, position_b in blocks(logits_BTV, counts_BT))
    found = [_likeliest(logits_NV[position_b].float() / temperature, num_kept) for position_b in positions]
    log_prob_PK, token_PK = map(torch.cat, zip(*found, strict=True))
    log_prob_PK = log_prob_PK.half()
    return Targets(log_prob_PK, token_PK.int(), _rest(log_prob_PK.float().exp()).log())


def _likeliest(logits_bV: Tensor, num_kept: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the likeliest tokens, and which these are."""
    kept_bK, token_bK = logits_bV.topk(min(num_kept, logits_bV.shape[1]))
    return kept_bK - logits_bV.logsumexp(-1, keepdim=True), token_bK


def divergence_loss(targets: Targets) -> BlockLoss:
    """KL(teacher ‖ student), at the temperature of the targets.

    With p the student's probabilities, t the teacher's, both of the kept tokens K, and q and r what each leaves to all
    others: the derivative by logit v is p_v (Σ_K t − (r/q) Σ_K p), and for v in K (r/q) p_v − t_v more.
    """

    def loss_of(log_prob: LogProb, block: slice) -> Slope:
        log_teacher_bK, token_bK, log_rest_b = targets.at(block)
        log_teacher_bK, token_bK = log_teacher_bK.float(), token_bK.long()
        teacher_bK, rest_b = log_teacher_bK.exp(), log_rest_b.exp()
        log_student_bK = log_prob(token_bK)
        student_bK = log_student_bK.exp()
        student_rest_b = _rest(student_bK)
        ratio_b1 = torch.where(student_rest_b > LEAST, rest_b / student_rest_b, 0.0)[:, None]
        common_b1 = teacher_bK.sum(-1, keepdim=True) - ratio_b1 * student_bK.sum(-1, keepdim=True)
        kept = (teacher_bK * (log_teacher_bK - log_student_bK)).sum()
        others = (rest_b * (log_rest_b - student_rest_b.log())).sum()
        return Slope(kept + others, common_b1, token_bK, ratio_b1 * student_bK - teacher_bK)

    return loss_of


def _rest(prob_bK: Tensor) -> Tensor:
    """What the kept tokens leave to all others."""
    return (1 - prob_bK.sum(-1)).clamp_min(LEAST)
