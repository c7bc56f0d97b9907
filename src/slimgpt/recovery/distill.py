"""Learning from the dense model: what is kept of its predictions, and the distance to them.

The distance is the forward Kullback-Leibler divergence KL(teacher ‖ student) at a temperature τ, times τ² so that
gradients keep their size (Hinton et al., https://arxiv.org/abs/1503.02531). Of the teacher's distribution the K
likeliest tokens are kept, and all others count as one more outcome: that is the divergence of the two coarser
distributions, a lower bound that is zero only where those agree, and unlike renormalised top-K it sees mass that leaks
to the rest.

Shapes: P learned positions · V vocabulary · K tokens kept · B rows · T tokens · D residual width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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


def targets_of(logits_PV: Tensor, num_kept: int, temperature: float) -> Targets:
    """What is kept of a teacher's logits; all of them where the vocabulary is smaller than ``num_kept``."""
    log_prob_PV = (logits_PV.float() / temperature).log_softmax(-1)
    log_prob_PK, token_PK = log_prob_PV.topk(min(num_kept, logits_PV.shape[1]))
    log_prob_PK = log_prob_PK.half()
    return Targets(log_prob_PK, token_PK.int(), _log_rest(log_prob_PK.float()))


def kl_divergence(logits_PV: Tensor, targets: Targets, temperature: float) -> Tensor:
    """τ² KL(teacher ‖ student), summed over positions; the student's logits in any float dtype."""
    scaled_PV = logits_PV.float() / temperature
    normaliser_P = scaled_PV.logsumexp(-1)
    student_PK = scaled_PV.gather(1, targets.token_PK.long()) - normaliser_P[:, None]
    teacher_PK = targets.log_prob_PK.float()
    rest_P = targets.log_rest_P
    kept = (teacher_PK.exp() * (teacher_PK - student_PK)).sum()
    others = (rest_P.exp() * (rest_P - _log_rest(student_PK))).sum()
    return temperature**2 * (kept + others)


def _log_rest(log_prob_PK: Tensor) -> Tensor:
    """Log of what the kept tokens leave to the others."""
    return torch.log((1 - log_prob_PK.exp().sum(-1)).clamp_min(LEAST))


def hidden_state_error(student: Sequence[Tensor], teacher: Sequence[Tensor], learned_BT: Tensor) -> Tensor:
    """‖student − teacher‖² / ‖teacher‖² of the residual stream (each B x T x D) at the learned positions (B x (T−1)),
    summed over positions and averaged over layers: pruning keeps depth and residual width, so layers correspond.

    Relative and by position, because a few positions have hidden states a hundred times as large as the rest.
    """
    errors = [
        _relative_error(ours[:, :-1][learned_BT].float(), theirs[:, :-1][learned_BT].float()).sum()
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(errors).mean()


def _relative_error(ours_PD: Tensor, theirs_PD: Tensor) -> Tensor:
    return (ours_PD - theirs_PD).square().sum(-1) / theirs_PD.square().sum(-1).clamp_min(LEAST)
