"""Whether two models say the same of the same tokens.

Shapes: T positions · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCES: Mapping[torch.dtype, float] = {
    torch.float64: 1e-3,
    torch.float32: 1e-3,
    torch.float16: 0.02,
    torch.bfloat16: 0.1,
}
"""Largest difference of a logit, as a fraction of the range of logits, that rounding explains: a wrong layout of any
tensor gives far more."""


@dataclass(frozen=True)
class Agreement:
    """How near the logits of two models are on the same tokens.

    Attributes:
        difference: the largest difference of a logit, as a fraction of the range of the first one's logits.
        agreeing: positions where the likeliest next token is the same.
        positions: all positions.
    """

    difference: float
    agreeing: int
    positions: int

    def __str__(self) -> str:
        return (
            f"largest difference of a logit {self.difference:.2%} of their range; the likeliest next token is the same "
            f"at {self.agreeing} of {self.positions} positions"
        )


def agreement(first_TV: Tensor, second_TV: Tensor) -> Agreement:
    """Compare logits of the same tokens."""
    difference = (first_TV - second_TV).abs().max() / (first_TV.max() - first_TV.min())
    agreeing = (first_TV.argmax(1) == second_TV.argmax(1)).sum()
    return Agreement(float(difference), int(agreeing), len(first_TV))


def coarsest(*dtypes: torch.dtype) -> torch.dtype:
    """The one that rounds most."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
