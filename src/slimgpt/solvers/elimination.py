"""Exact greedy elimination: the cheapest unit goes, the others are repaired, and so on.

With H̃ the damped Hessian, all there is to know about removing a set S of columns sits in two symmetric
matrices, the *inverse* P = H̃⁻¹ and the *gram* G = WᵀW. With P_SS = L Lᵀ:

    cost of S     tr(P_SS⁻¹ G_SS)            what optimal repair of the survivors cannot win back
    after S       P ← P − A Aᵀ               A = P_:,S L⁻ᵀ
                  G ← G − U Aᵀ − A Uᵀ        U = C − ½ A M,  C = G_:,S L⁻ᵀ,  M = L⁻¹ G_SS L⁻ᵀ

so neither W nor H is needed again (derived in docs/the_maths.md). The first update is a step of a Cholesky
factorisation whose pivots are chosen on the way, and the whole is blocked like one.

Shapes: I columns still there (= N·K) · N units · K columns per unit · S units of a panel · J their columns
(= S·K). A and U are held transposed, a row per leaving column.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimgpt.errors import NumericalError
from slimgpt.solvers.linalg import diagonal_blocks
from slimgpt.solvers.replay import repeatable
from slimgpt.solvers.turns import Turns

PANEL_COLUMNS = 64  # columns that leave between two rounds of matrix products; swept in benchmarks/solver.py


def eliminate_(
    inverse_II: Tensor,
    gram_II: Tensor,
    width: int,
    num_steps: int,
    panel_columns: int = PANEL_COLUMNS,
    blocks: int = 1,
) -> tuple[Tensor, Tensor]:
    """Remove ``num_steps`` units, the cheapest first at every step.

    Inside a panel only the pivots' own rows are formed; then the panel is applied to the survivors as matrix
    products. Survivors move up to fill the leading part of both matrices, so the work shrinks as units go.

    Args:
        inverse_II: P = H̃⁻¹, float64, overwritten.
        gram_II: G = WᵀW (or WᵀMW for a metric M on the outputs), float64, overwritten.
        width: K, columns per unit.
        num_steps: units to remove, up to all N.
        panel_columns: columns per panel; a matter of speed only.
        blocks: units lie in so many equal runs, each of which loses one unit before any loses another.

    Returns:
        The units in the order they left, and what each cost at its turn; both ``num_steps`` long.

    Raises:
        NumericalError: P was so close to singular that rounding made it indefinite on the way.
    """
    unit_N = torch.arange(inverse_II.shape[0] // width, device=inverse_II.device)
    turns = Turns(len(unit_N), blocks, unit_N.device)
    orders, costs = [unit_N[:0]], [inverse_II.new_empty(0)]
    while num_steps > 0:
        num_pivots = min(num_steps, max(1, panel_columns // width))
        num_panels = min(num_steps // num_pivots, _panels_in_place(inverse_II.device, width))
        state = inverse_II, gram_II, unit_N, width, num_pivots, turns
        pivot_S, cost_S, inverse_II, gram_II = _panel(*state) if num_panels == 1 else _panels(*state, num_panels)
        orders.append(unit_N[pivot_S])
        costs.append(cost_S)
        unit_N = _drop_(unit_N, (0,), pivot_S)
        num_steps -= len(pivot_S)
    return torch.cat(orders), torch.cat(costs)


def _panel(
    inverse_II: Tensor, gram_II: Tensor, unit_N: Tensor, width: int, num_pivots: int, turns: Turns
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eliminate ``num_pivots`` units: their places, their costs, and both matrices without them."""
    gone_N = inverse_II.new_zeros(len(unit_N))
    pivot_S, cost_S, a_JI, u_JI = _factor_panel(inverse_II, gram_II, unit_N, width, num_pivots, turns, gone_N)
    _require_finite(cost_S)
    column_J = _columns(pivot_S, width)
    a_JI, u_JI = (_drop_(rows, (1,), column_J) for rows in (a_JI, u_JI))
    inverse_II, gram_II = (_drop_(matrix, (0, 1), column_J) for matrix in (inverse_II, gram_II))
    _apply_panel_(inverse_II, gram_II, a_JI, u_JI)
    return pivot_S, cost_S, inverse_II, gram_II


def _panels(
    inverse_II: Tensor, gram_II: Tensor, unit_N: Tensor, width: int, num_pivots: int, turns: Turns, num_panels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same ``num_panels`` times, one recorded panel for all: survivors move up at the end only."""
    gone_N = inverse_II.new_zeros(len(unit_N))
    found: list[Tensor] = []

    def eliminate() -> None:
        pivot_S, cost_S, a_JI, u_JI = _factor_panel(inverse_II, gram_II, unit_N, width, num_pivots, turns, gone_N)
        _apply_panel_(inverse_II, gram_II, a_JI, u_JI)
        _clear_(inverse_II, gram_II, _columns(pivot_S, width))
        found[:] = pivot_S, cost_S

    repeat, pivots, costs = repeatable(eliminate, inverse_II.device), [], []
    for _ in range(num_panels):
        repeat()
        pivots.append(found[0].clone())
        costs.append(found[1].clone())
    pivot_S, cost_S = torch.cat(pivots), torch.cat(costs)
    _require_finite(cost_S)
    inverse_II, gram_II = (_drop_(matrix, (0, 1), _columns(pivot_S, width)) for matrix in (inverse_II, gram_II))
    return pivot_S, cost_S, inverse_II, gram_II


def _clear_(inverse_II: Tensor, gram_II: Tensor, column_J: Tensor) -> None:
    """Rows and columns of those that are gone are zero but for rounding: zero they are, and P's diagonal solvable."""
    for matrix_II in (inverse_II, gram_II):
        matrix_II.index_fill_(0, column_J, 0.0).index_fill_(1, column_J, 0.0)
    inverse_II.diagonal().index_fill_(0, column_J, 1.0)


def _panels_in_place(device: torch.device, width: int) -> int:
    """Panels before survivors move up. A GPU repeats one panel of single columns, hundreds of kernels, by itself, as
    long as nothing moves; a CPU has nothing to gain.
    """
    return 32 if device.type == "cuda" and width == 1 else 1


def joint_cost(inverse_NKK: Tensor, gram_NKK: Tensor) -> Tensor:
    """What removing each unit alone would cost after optimal repair, tr(P_SS⁻¹ G_SS): N numbers."""
    if inverse_NKK.shape[-1] == 1:  # a division; thousands of 1 x 1 factorisations would dominate the run
        return (gram_NKK / inverse_NKK).flatten()
    solved_NKK = torch.cholesky_solve(gram_NKK, _factor(inverse_NKK))
    return solved_NKK.diagonal(dim1=-2, dim2=-1).sum(-1)


def _factor_panel(
    inverse_II: Tensor,
    gram_II: Tensor,
    unit_N: Tensor,
    width: int,
    num_pivots: int,
    turns: Turns,
    gone_N: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose ``num_pivots`` units one by one: their places, their costs, and their rows of Aᵀ and Uᵀ.

    P and G stay as they are: to choose, it is enough to keep their diagonal blocks up to date. Nothing here
    waits for the device, so a GPU can be given the whole panel ahead. ``gone_N`` is infinite for units that are gone,
    zero for others, and brought up to date.
    """
    inverse_NKK, gram_NKK = diagonal_blocks(inverse_II, width), diagonal_blocks(gram_II, width)
    column_NK = torch.arange(len(inverse_II), device=inverse_II.device).view(-1, width)
    identity_1KK = torch.eye(width, dtype=inverse_II.dtype, device=inverse_II.device)[None]
    a_JI = inverse_II.new_empty(num_pivots * width, inverse_II.shape[1])
    u_JI = torch.empty_like(a_JI)
    pivots, costs = [], []
    for done in range(0, len(a_JI), width):
        cost_N = turns.cost(joint_cost(inverse_NKK, gram_NKK) + gone_N, unit_N)
        cost, pivot = torch.min(cost_N, dim=0, keepdim=True)
        turns.leave(unit_N, pivot)
        column_K = column_NK.index_select(0, pivot).flatten()
        a_KI, u_KI = _pivot_rows(inverse_II, gram_II, a_JI[:done], u_JI[:done], column_K)
        a_JI[done : done + width], u_JI[done : done + width] = a_KI, u_KI
        _downdate_blocks_(inverse_NKK, gram_NKK, a_KI, u_KI)
        inverse_NKK.index_copy_(0, pivot, identity_1KK)  # the pivot's own block is zero now: keep it solvable
        gone_N.index_fill_(0, pivot, torch.inf)
        pivots.append(pivot)
        costs.append(cost)
    return torch.cat(pivots), torch.cat(costs).clamp(min=0), a_JI, u_JI


def _pivot_rows(
    inverse_II: Tensor, gram_II: Tensor, a_JI: Tensor, u_JI: Tensor, column_K: Tensor
) -> tuple[Tensor, Tensor]:
    """The pivot's rows of Aᵀ and Uᵀ, from rows of P and G brought up to date by the panel so far."""
    a_JK, u_JK = a_JI.index_select(1, column_K), u_JI.index_select(1, column_K)
    inverse_KI = inverse_II.index_select(0, column_K).addmm_(a_JK.T, a_JI, alpha=-1)
    gram_KI = gram_II.index_select(0, column_K).addmm_(a_JK.T, u_JI, alpha=-1).addmm_(u_JK.T, a_JI, alpha=-1)
    factor_KK = _factor(inverse_KI.index_select(1, column_K))
    a_KI, c_KI = _solve(factor_KK, inverse_KI), _solve(factor_KK, gram_KI)
    m_KK = _solve(factor_KK, c_KI.index_select(1, column_K).T)
    return a_KI, c_KI.addmm_(m_KK, a_KI, alpha=-0.5)


def _downdate_blocks_(inverse_NKK: Tensor, gram_NKK: Tensor, a_KI: Tensor, u_KI: Tensor) -> None:
    """One pivot's elimination, on the diagonal blocks alone."""
    if len(a_KI) == 1:
        inverse_NKK.view_as(a_KI).addcmul_(a_KI, a_KI, value=-1)
        gram_NKK.view_as(a_KI).addcmul_(u_KI, a_KI, value=-2)
        return
    a_NKK, u_NKK = (rows.unflatten(1, (len(inverse_NKK), -1)).movedim(1, 0) for rows in (a_KI, u_KI))
    inverse_NKK.baddbmm_(a_NKK.mT, a_NKK, alpha=-1)
    gram_NKK.baddbmm_(u_NKK.mT, a_NKK, alpha=-2)  # for U Aᵀ + A Uᵀ: the cost sees the symmetric part only


def _apply_panel_(inverse_II: Tensor, gram_II: Tensor, a_JI: Tensor, u_JI: Tensor) -> None:
    """A panel's elimination, on all that is left: three matrix products, nearly all of the arithmetic."""
    inverse_II.addmm_(a_JI.T, a_JI, alpha=-1)
    gram_II.addmm_(u_JI.T, a_JI, alpha=-1).addmm_(a_JI.T, u_JI, alpha=-1)


def _drop_(tensor: Tensor, dims: tuple[int, ...], gone: Tensor) -> Tensor:
    """Delete entries along each dimension in place: survivors from the end fill the holes, the end is cut.

    Costs the few rows that move, where an order-preserving compaction would copy the whole matrix.
    """
    for dim in dims:
        along = tensor.movedim(dim, 0)  # a view: writes land in the tensor
        size = len(along) - len(gone)
        kept = torch.ones(len(along), dtype=torch.bool, device=gone.device).index_fill_(0, gone, False)
        hole, tail = (~kept[:size]).nonzero().flatten(), size + kept[size:].nonzero().flatten()
        along[hole] = along[tail]
        tensor = tensor.narrow(dim, 0, size)
    return tensor


def _columns(unit_S: Tensor, width: int) -> Tensor:
    """The columns of the units, unit after unit."""
    return (unit_S[:, None] * width + torch.arange(width, device=unit_S.device)).flatten()


def _factor(block: Tensor) -> Tensor:
    """Cholesky factors; NaN where there is none, since asking whether there is would stall a GPU."""
    if block.shape[-1] == 1:  # most of the time of single columns would go into what surrounds one operation
        return block.sqrt()
    factor, info = torch.linalg.cholesky_ex(block)
    return factor.masked_fill_((info > 0)[..., None, None], torch.nan)


def _solve(factor_KK: Tensor, rows_KI: Tensor) -> Tensor:
    """L⁻¹ times the rows."""
    if len(factor_KK) == 1:
        return rows_KI / factor_KK
    return torch.linalg.solve_triangular(factor_KK, rows_KI, upper=False)


def _require_finite(cost_S: Tensor) -> None:
    """NaN in P or G reaches the costs of the panel at the latest, so one look a panel is enough."""
    if not cost_S.isfinite().all():
        raise NumericalError(
            "the inverse Hessian is not positive definite to working precision: the calibration inputs nearly "
            "determine one another. Raise --damping (0.01 is usual), or give more calibration text with --samples."
        )
