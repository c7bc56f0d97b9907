"""Random removal: the control that every claim about a choice has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from slimgpt.sites import Removal, SolverOptions
from slimgpt.solvers.finish import remove_lowest


def random(weight_OI: Tensor, hessian_II: Tensor, num_units: int, num_removed: int, options: SolverOptions) -> Removal:
    """Remove units at random; drawn on the CPU from ``options.seed``, so every device draws alike."""
    generator = torch.Generator().manual_seed(options.seed)
    score_N = torch.rand(num_units, generator=generator, dtype=torch.float64)
    return remove_lowest(weight_OI, hessian_II, score_N, num_removed, options)
