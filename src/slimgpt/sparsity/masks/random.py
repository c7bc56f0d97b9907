"""Random masks: the control that every claim about a choice has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from slimgpt.sparsity.masks.method import MaskOptions, without_lowest


def random(weight_OI: Tensor, hessian_II: Tensor | None, sparsity: float, options: MaskOptions) -> Tensor:
    """Zero weights at random; drawn on the CPU from ``options.seed``, so every device draws alike."""
    generator = torch.Generator().manual_seed(options.seed)
    score_OI = torch.rand(weight_OI.shape, generator=generator, dtype=torch.float64)
    return without_lowest(weight_OI, score_OI, sparsity, options.group, by_row=False)
