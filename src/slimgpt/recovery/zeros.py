"""Fine-tuning that leaves zeros where pruning put them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def hold_zeros(model: Any) -> int:
    """Take the gradient from every weight that is zero now; how many there are.

    AdamW moves such a weight no more: its moments stay zero, and decay shrinks what is nothing already.
    """
    held = 0
    for parameter in model.parameters():
        zero = parameter.detach() == 0
        count = int(zero.sum())
        if parameter.requires_grad and count:
            parameter.register_hook(_without(zero))
            held += count
    return held


def _without(zero: Tensor) -> Any:
    return lambda gradient: gradient.masked_fill(zero.to(gradient.device), 0)
