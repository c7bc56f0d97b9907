"""What all mask methods share: their signature, and the choice of the lowest scores.

Shapes: O outputs · I inputs · R groups that lose equally many · N members of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskOptions:
    """Numbers that methods take beside the problem itself.

    Attributes:
        group: M of an N:M pattern: every M consecutive inputs of an output lose equally many weights; 0 is no pattern.
        damping: λ as a fraction of the mean diagonal of the Hessian (methods that solve with it).
        seed: for methods that draw random numbers.
    """

    group: int = 0
    damping: float = 0.01
    seed: int = 0


MaskMethod = Callable[[Tensor, Tensor | None, float, MaskOptions], Tensor]
"""``method(weight_OI, hessian_II, sparsity, options) -> weight_OI``, zero where a weight is gone, dtype as it came.

``hessian_II`` is X Xᵀ over the calibration tokens in float32 or float64, undamped; None for methods that need no
inputs. Weights that are zero already go first and stay zero, so a method may be applied to its own result.
"""


def lowest(score_RN: Tensor, num: int) -> Tensor:
    """bool: True at the ``num`` lowest scores of every row; of equal ones the first go.

    A selection, not a sort: that is several times as fast on a whole matrix.
    """
    if num == 0:
        return torch.zeros_like(score_RN, dtype=torch.bool)
    highest_R1 = score_RN.kthvalue(num, dim=1, keepdim=True).values
    below_RN, equal_RN = score_RN < highest_R1, score_RN == highest_R1
    left_R1 = num - below_RN.sum(dim=1, keepdim=True)
    return below_RN | (equal_RN & (equal_RN.cumsum(dim=1) <= left_R1))


def zeros_first(score_OI: Tensor, weight_OI: Tensor) -> Tensor:
    """Scores, which are never negative, with −1 where the weight is zero already."""
    return score_OI.masked_fill(weight_OI == 0, -1.0)


def without_lowest(weight_OI: Tensor, score_OI: Tensor, sparsity: float, group: int, *, by_row: bool) -> Tensor:
    """The weight with zeros at the lowest scores: of each group of inputs, else of each row or of the whole matrix."""
    score_RN = zeros_first(score_OI, weight_OI.to(score_OI.device))
    if group:
        score_RN = score_RN.reshape(-1, group)
    elif not by_row:
        score_RN = score_RN.reshape(1, -1)
    gone_RN = lowest(score_RN, count(sparsity, score_RN.shape[1]))
    return weight_OI.masked_fill(gone_RN.view_as(weight_OI).to(weight_OI.device), 0.0)


def count(sparsity: float, num: int) -> int:
    """The whole number nearest to ``sparsity`` of ``num``, halves up."""
    return math.floor(sparsity * num + 0.5)
