"""The paper's solver, faithfully: Batched Greedy Pruning of heads, Dynamic Group Size for channels.

Both are one loop. A round inverts the Hessian of the survivors, scores all units, eliminates the cheapest
column by column with the OBS compensation of all the others, and takes them out of the Hessian. For heads
a round is one head, scored by the *grouped Cholesky decomposition*; for channels a round is a whole
group.

Source: "SlimGPT: Layer-wise Structured Pruning for Large Language Models", NeurIPS 2024, arXiv
2412.18110, sections 3.2 (heads) and 3.3 (channels). How the group shrinks from 1024 to 8 the paper does
not say: see :func:`round_sizes`.

Shapes: O consumer outputs · I consumer inputs (= N·K) · N units · K channels per unit · S columns leaving.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slimgpt.sites import Removal, SolverOptions
from slimgpt.solvers.finish import finish, keep_all_but, per_unit, removal
from slimgpt.solvers.linalg import cholesky_, damped, diagonal_blocks, energy, inverse_, living_weight
from slimgpt.solvers.obs import nested_curve
from slimgpt.solvers.turns import Turns


def slimgpt(weight_OI: Tensor, hessian_II: Tensor, num_units: int, num_removed: int, options: SolverOptions) -> Removal:
    """Remove units round by round; the survivors' weights are those the rounds left behind.

    The curve is exact for the order taken: every column adds what it cost when it went.

    Raises:
        NumericalError: the damped Hessian of some round is singular.
    """
    width = weight_OI.shape[1] // num_units
    left_OI, left_II = living_weight(weight_OI, hessian_II), damped(hessian_II, options.damping)
    unit_N = torch.arange(num_units, device=left_II.device)
    turns = Turns(num_units, options.blocks, unit_N.device)
    orders, costs = [unit_N[:0]], [left_II.new_zeros(0)]
    for size in round_sizes(num_removed, width, options.group_size, options.blocks):
        leaving, cost, left_OI, left_II = prune_round(left_OI, left_II, unit_N, size, turns, options)
        turns.leave(unit_N, leaving)
        orders.append(unit_N[leaving])
        costs.append(cost)
        unit_N = unit_N[keep_all_but(leaving, len(unit_N))]
    kept_N = keep_all_but(torch.cat(orders), num_units)
    curve = nested_curve(torch.cat(costs), energy(weight_OI, hessian_II))
    if options.repair is False:
        return finish(weight_OI, hessian_II, kept_N, options, repair=False, curve=curve)
    return removal(weight_OI, hessian_II, kept_N, left_OI, curve)


def round_sizes(num_removed: int, width: int, group_size: int, blocks: int = 1) -> list[int]:
    """Units per round: one head (or one unit, where blocks take turns), or a group of channels (``group_size``, 0 for
    the dynamic schedule).

    The paper lets the group shrink from 1024 to 8 and gives no rule in between. Ours, a guess: a quarter
    of what is still to go, within those bounds.
    """
    sizes: list[int] = []
    while (remaining := num_removed - sum(sizes)) > 0:
        dynamic = min(max(math.ceil(remaining / 4), 8), 1024)
        sizes.append(min(remaining, 1 if width > 1 or blocks > 1 else group_size or dynamic))
    return sizes


def prune_round(
    weight_OI: Tensor, hessian_II: Tensor, unit_N: Tensor, size: int, turns: Turns, options: SolverOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One round on the survivors ``unit_N``: who leaves, at what cost, and the weight and Hessian without them."""
    inverse_II, num_units = inverse_(hessian_II.clone(), options.damping), len(unit_N)
    score_N = turns.cost(unit_scores(weight_OI, inverse_II, num_units, options), unit_N)
    leaving = score_N.argsort(stable=True)[:size]
    column_I = torch.arange(len(hessian_II), device=leaving.device).view(num_units, -1)
    weight_OI, cost_S = eliminate_columns(weight_OI, inverse_II, column_I[leaving].flatten(), options.damping)
    del inverse_II  # the two Hessians, before and after, are the most there is
    kept_I = column_I[keep_all_but(leaving, num_units)].flatten()
    return leaving, per_unit(cost_S, size), weight_OI[:, kept_I], hessian_II[kept_I[:, None], kept_I]


def unit_scores(weight_OI: Tensor, inverse_II: Tensor, num_units: int, options: SolverOptions) -> Tensor:
    """Σ_j ‖W[:,j]‖² / (L_h)_jj² over the columns j of unit h, L_h the Cholesky factor of its block of H⁻¹.

    (L_h)_jj² is what [H⁻¹]_jj will be once the columns before j in the unit are gone. W is left as it is
    now, so the score is not yet the joint cost. Without the grouped Cholesky: plain diag(H⁻¹). The same
    for one column.
    """
    pivot_I = inverse_II.diagonal()
    if options.grouped_cholesky:
        factor_NKK = cholesky_(diagonal_blocks(inverse_II, len(inverse_II) // num_units), options.damping)
        pivot_I = factor_NKK.diagonal(dim1=1, dim2=2).square().flatten()
    return per_unit(weight_OI.square().sum(0) / pivot_I, num_units)


def eliminate_columns(weight_OI: Tensor, inverse_II: Tensor, column_S: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """OBS on the columns one after the other, in closed form: the compensated weight and the costs.

    With L the Cholesky factor of [H⁻¹]_SS and Y = W_S L⁻ᵀ, the sequence of updates W ← W − (W[:,p] /
    [H⁻¹]_pp) [H⁻¹]_p,: sums up to W − Y L⁻¹ [H⁻¹]_S,:, and column j costs ‖Y[:,j]‖²: the same numbers in
    exact arithmetic, in one matrix product (tests/oracle.py has the loop).
    """
    factor_SS = cholesky_(inverse_II[column_S][:, column_S], damping)
    y_SO = torch.linalg.solve_triangular(factor_SS, weight_OI[:, column_S].T, upper=False)
    rows_SI = torch.linalg.solve_triangular(factor_SS, inverse_II[column_S], upper=False)
    return weight_OI - y_SO.T @ rows_SI, y_SO.square().sum(1)
