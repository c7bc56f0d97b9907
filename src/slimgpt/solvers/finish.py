"""What every solver ends with: the choice turned into a :class:`Removal`.

Shapes: O consumer outputs · I consumer inputs (= N·K) · N units · K channels per unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimgpt.sites import Removal, SolverOptions, expand
from slimgpt.solvers.linalg import refit, relative_error
from slimgpt.solvers.turns import lowest


def per_unit(value_I: Tensor, num_units: int) -> Tensor:
    """Column scores summed over the columns of each unit."""
    return value_I.unflatten(0, (num_units, -1)).sum(1)


def keep_all_but(removed: Tensor, num_units: int) -> Tensor:
    """``kept_N``: True everywhere but at the units listed."""
    kept_N = torch.ones(num_units, dtype=torch.bool, device=removed.device)
    return kept_N.index_fill_(0, removed, False)


def remove_lowest(
    weight_OI: Tensor, hessian_II: Tensor, score_N: Tensor, num_removed: int, options: SolverOptions
) -> Removal:
    """A baseline: the lowest scores go at once; survivors are repaired only where that is asked for."""
    removed = lowest(score_N, num_removed, options.blocks)
    return finish(weight_OI, hessian_II, keep_all_but(removed, len(score_N)), options, repair=False)


def finish(
    weight_OI: Tensor,
    hessian_II: Tensor,
    kept_N: Tensor,
    options: SolverOptions,
    *,
    repair: bool,
    curve: Tensor | None = None,
) -> Removal:
    """Take the kept columns, refitted if ``options.repair``, or else the solver's habit, says so."""
    kept_I = expand(kept_N, weight_OI.shape[1] // len(kept_N)).to(weight_OI.device)
    if (repair if options.repair is None else options.repair) and not kept_I.all():
        kept_weight_OK = refit(weight_OI, hessian_II, kept_I, options.damping)
    else:
        kept_weight_OK = weight_OI[:, kept_I]
    return removal(weight_OI, hessian_II, kept_N, kept_weight_OK, curve)


def removal(
    weight_OI: Tensor, hessian_II: Tensor, kept_N: Tensor, kept_weight_OK: Tensor, curve: Tensor | None = None
) -> Removal:
    """Cast the kept weights back to the weight's dtype, and measure the true error of that very result."""
    kept_N = kept_N.to(weight_OI.device)
    curve = torch.empty(0, dtype=torch.float64) if curve is None else curve.cpu()
    if kept_N.all():
        return Removal(kept_N, weight_OI, 0.0, curve)
    kept_I = expand(kept_N, weight_OI.shape[1] // len(kept_N))
    result_OK = kept_weight_OK.to(weight_OI).contiguous()
    return Removal(kept_N, result_OK, relative_error(weight_OI, hessian_II, kept_I, result_OK), curve)
