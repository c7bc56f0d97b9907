"""A site whose units lose members: two problems of the same kind, one after the other, for any solver.

First members leave, the units taking turns; then whole units leave, each worth what is left of it. The other order
would keep a unit for the sake of members that go anyway (docs/the_maths.md, section 10).

Shapes: O consumer outputs · I consumer inputs · K inputs that the first problem leaves · N units · M members of all
units.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from slimgpt.sites import Kept, Removal, Site, Solver, SolverOptions, expand
from slimgpt.solvers.finish import removal
from slimgpt.solvers.linalg import to_float64


def solve_site(
    solve: Solver,
    weight_OI: Tensor,
    hessian_II: Tensor,
    site: Site,
    kept: Kept,
    options: SolverOptions,
) -> Removal:
    """Keep so many units of a site, and so many members of each.

    Where solvers repair, two repairs in a row are one: both are least squares with the same ridge, so the weights are
    those of a single refit on the columns that stay. Without members that go it is one call of ``solve``.

    Raises:
        NumericalError: a damped Hessian is singular.
    """
    if kept.units == 0:
        return nothing_left(weight_OI, site)
    num_removed = site.num_units - kept.units
    num_lost = 0 if kept.members is None else site.members - kept.members
    if num_lost == 0:
        return solve(weight_OI, hessian_II, site.num_units, num_removed, options)
    num_members, turns = site.num_units * site.members, replace(options, blocks=site.num_units)
    first = solve(to_float64(weight_OI), hessian_II, num_members, site.num_units * num_lost, turns)
    kept_I = site.kept_columns(first.kept_N)
    left_KK, ridge = remaining(hessian_II, kept_I, options.damping)
    second = solve(first.weight_OI, left_KK, site.num_units, num_removed, replace(options, damping=ridge))
    kept_M = first.kept_N & expand(second.kept_N, site.members)
    return removal(weight_OI, hessian_II, kept_M, second.weight_OI)


def nothing_left(weight_OI: Tensor, site: Site) -> Removal:
    """A site that vanishes: no column stays, and with it nothing of the output."""
    kept_N = torch.zeros(site.num_units, dtype=torch.bool)
    return Removal(kept_N, weight_OI[:, :0].clone(), 1.0, torch.empty(0))


def remaining(hessian_II: Tensor, kept_I: Tensor, damping: float) -> tuple[Tensor, float]:
    """The Hessian of the columns that stay, and the damping that makes the same λ of its mean diagonal."""
    kept_K = kept_I.nonzero().flatten().to(hessian_II.device)
    left_KK = hessian_II[kept_K[:, None], kept_K]
    before, after = (to_float64(matrix.diagonal()).mean() for matrix in (hessian_II, left_KK))
    return left_KK, damping * float(before / after) if after > 0 else damping
