"""Structured magnitude pruning: the baseline that looks at no data."""

from __future__ import annotations

from torch import Tensor

from slimgpt.sites import Removal, SolverOptions
from slimgpt.solvers.finish import per_unit, remove_lowest
from slimgpt.solvers.linalg import to_float64


def magnitude(
    weight_OI: Tensor, hessian_II: Tensor, num_units: int, num_removed: int, options: SolverOptions
) -> Removal:
    """Remove the units of least squared weight, Σ_j ‖W[:,j]‖² over the columns of the unit."""
    norm_I = to_float64(weight_OI).square().sum(0)
    return remove_lowest(weight_OI, hessian_II, per_unit(norm_I, num_units), num_removed, options)
