"""Structured Wanda: weight norm times input norm (Sun et al., arXiv 2306.11695), summed over columns."""

from __future__ import annotations

from torch import Tensor

from slimgpt.sites import Removal, SolverOptions
from slimgpt.solvers.finish import per_unit, remove_lowest
from slimgpt.solvers.linalg import to_float64


def wanda(weight_OI: Tensor, hessian_II: Tensor, num_units: int, num_removed: int, options: SolverOptions) -> Removal:
    """Remove the units of least Σ_j ‖W[:,j]‖² · H_jj: the output they carry if inputs were uncorrelated."""
    input_norm_I = to_float64(hessian_II.diagonal())
    norm_I = to_float64(weight_OI).to(input_norm_I.device).square().sum(0)
    return remove_lowest(weight_OI, hessian_II, per_unit(norm_I * input_norm_I, num_units), num_removed, options)
