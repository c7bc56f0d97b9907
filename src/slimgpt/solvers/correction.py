"""Error correction: a repaired layer also makes up for what earlier layers have lost, as far as unseen text confirms.

The paper fits W X̃, the dense layer on the pruned path's inputs, so that an error made earlier is passed on. The
survivors can fit the dense path's output Y instead: with the gap Γ = Y − W X̃,

    W' = W'_obs + α Γ X̃_Kᵀ (H̃_KK)⁻¹

At α = 1 this is least squares on Y, and over-fits where tokens are few. The α that serves held-out windows best has a
closed form, since their error is a parabola in it; it is cut to [0, 1].

Shapes: O outputs · I inputs · K inputs that are kept.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from slimgpt.sites import Removal, expand
from slimgpt.solvers.linalg import cholesky_, damped_diagonal, refit, to_float64
from slimgpt.solvers.stats import GapStats


def correct(removal: Removal, weight_OI: Tensor, stats: GapStats, damping: float) -> Removal:
    """The same removal with weights that close part of the gap; its ``error`` stays that of the repair alone.

    Args:
        removal: what a solver chose, on the inputs of all windows.
        weight_OI: the dense weight.
        stats: moments of the gap.
        damping: as of the solver.

    Raises:
        NumericalError: a damped Hessian is singular.
    """
    kept_I = expand(removal.kept_N, weight_OI.shape[1] // len(removal.kept_N)).to(weight_OI.device)
    strength = _strength(weight_OI, kept_I, stats, damping)
    if strength == 0:
        return removal
    cross_OI, hessian_II = stats.cross_OI(0) + stats.cross_OI(1), stats.pooled().hessian_II()
    closing_OK = _closing(cross_OI, hessian_II, kept_I, damping)
    weight_OK = (to_float64(removal.weight_OI).to(closing_OK.device) + strength * closing_OK).to(removal.weight_OI)
    return replace(removal, weight_OI=weight_OK.contiguous())


def _strength(weight_OI: Tensor, kept_I: Tensor, stats: GapStats, damping: float) -> float:
    """α: fitted on one half, it minimises ‖Γ + (W X̃ − W'_obs X̃_K) − α D X̃_K‖² on the other, D the closing weights.

    0 where no window is held out (there are fewer than eight).
    """
    if stats.inputs[1].num_tokens == 0 or not stats.cross_OI(0).any():
        return 0.0
    fit_II, held_II = (inputs.hessian_II() for inputs in stats.inputs)
    closing_OK = _closing(stats.cross_OI(0), fit_II, kept_I, damping)
    lost_OI = to_float64(weight_OI)
    lost_OI[:, kept_I] -= refit(weight_OI, fit_II, kept_I, damping)
    held_IK = to_float64(held_II[:, kept_I])
    gain = ((lost_OI @ held_IK + to_float64(stats.cross_OI(1))[:, kept_I]) * closing_OK).sum()
    curvature = ((closing_OK @ held_IK[kept_I]) * closing_OK).sum()
    return float((gain / curvature).clamp(0, 1)) if curvature > 0 else 0.0


def _closing(cross_OI: Tensor, hessian_II: Tensor, kept_I: Tensor, damping: float) -> Tensor:
    """D = Γ X̃_Kᵀ (H̃_KK)⁻¹: the weights on the kept inputs that explain the gap, O x K float64."""
    damped_KK = to_float64(hessian_II[kept_I][:, kept_I])
    damped_KK.diagonal().copy_(damped_diagonal(hessian_II, damping)[kept_I])
    factor_KK = cholesky_(damped_KK, damping)
    return torch.cholesky_solve(to_float64(cross_OI[:, kept_I]).T, factor_KK).T
