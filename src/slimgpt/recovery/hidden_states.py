"""How far a pruned model's residual stream is from the dense model's, for distillation.

Shapes: B rows · T tokens · D residual width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 1e-7  # of a squared length: zeros have no relative error


def hidden_state_error(student: Sequence[Tensor], teacher: Sequence[Tensor], learned_BT: Tensor) -> Tensor:
    """log(1 + ‖student − teacher‖² / ‖teacher‖²) of the residual stream (each B x T x D) at the learned positions
    (B x (T−1)), summed over positions and averaged over layers: pruning keeps depth and residual width, so layers
    correspond.

    Relative and by position, because a few positions have hidden states a hundred times as large as the rest. These are
    attention sinks, and pruning moves some of them to tokens where the teacher has none: there the squared error is
    thousands of times the squared length, and without the logarithm one such token would steer the whole step.
    """
    pairs = zip(student, teacher, strict=True)
    errors_BT = [_relative_error(ours.float(), theirs.float()).log1p() for ours, theirs in pairs]
    return torch.stack(errors_BT).mean(0)[:, :-1][learned_BT].sum()


def _relative_error(ours_BTD: Tensor, theirs_BTD: Tensor) -> Tensor:
    return (ours_BTD - theirs_BTD).square().sum(-1) / theirs_BTD.square().sum(-1).clamp_min(LEAST)
