"""The predictions of a teacher with more tokens, as predictions of the student's.

Shapes: B rows · S tokens of the teacher · P learned positions of a row · b of a block · D dense vocabulary · V the
student's · K tokens kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimgpt.evaluation.predictions import Targets, targets_of
from slimgpt.recovery.packing import Row, collate, learned
from slimgpt.recovery.reading import NOWHERE, Read, Reading

BLOCK = 64  # positions whose distributions over the dense vocabulary are held at once
NEVER = -60.0  # log-probability of what the text does not say, where the teacher is silent


@torch.inference_mode()
def predict(
    teacher: Any, rows: Sequence[Row], reading: Reading, num_kept: int, temperature: float, batch_size: int
) -> list[Targets]:
    """The targets of each row at its learned positions."""
    found: list[Targets] = []
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        read = [reading.of(row) for row in chosen]
        batch = {name: tensor.to(teacher.device) for name, tensor in collate([one.row for one in read]).items()}
        batch.pop("labels")
        logits_BSD = teacher(**batch, use_cache=False).logits
        of_rows = zip(chosen, read, logits_BSD, strict=True)
        found += [_of_row(*one, reading, num_kept, temperature) for one in of_rows]
    return found


def _of_row(row: Row, read: Read, logits_SD: Tensor, reading: Reading, num_kept: int, temperature: float) -> Targets:
    labels_T = torch.tensor(row.labels)
    learned_T = learned(labels_T[None])[0]
    place_P, label_P = torch.tensor(read.place_T)[:-1][learned_T], labels_T[1:][learned_T]
    blocks = zip(place_P.split(BLOCK), label_P.split(BLOCK), strict=True)
    log_prob_bV = (_log_probs(logits_SD, *block, reading, temperature) for block in blocks)
    found = [targets_of(one[None], torch.ones(1, len(one), dtype=torch.bool), num_kept, 1.0) for one in log_prob_bV]
    return Targets(*map(torch.cat, zip(*found, strict=True)))


def _log_probs(logits_SD: Tensor, place_b: Tensor, label_b: Tensor, reading: Reading, temperature: float) -> Tensor:
    """Log-probabilities of the student's tokens, float32."""
    silent_b = place_b == NOWHERE
    first_D = reading.first_D[: logits_SD.shape[1]]
    known_D = first_D != NOWHERE
    prob_bD = (logits_SD[place_b.clamp_min(0)][:, : len(first_D)].float().cpu() / temperature).softmax(-1)
    prob_bV = torch.zeros(len(place_b), reading.num_tokens).index_add_(1, first_D[known_D], prob_bD[:, known_D])
    log_prob_bV = prob_bV.log().clamp_min(NEVER)
    text_bV = torch.full_like(log_prob_bV, NEVER).scatter_(1, label_b[:, None], 0.0)
    return torch.where(silent_b[:, None], text_bV, log_prob_bV)
