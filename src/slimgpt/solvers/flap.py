"""FLAP: units whose inputs hardly fluctuate go, and their mean becomes a bias (An et al., "Fluctuation-based Adaptive
Structured Pruning for Large Language Models", https://arxiv.org/abs/2312.11983, sections 3.2 and 3.4).

What a removed input would have given on average, Σ_j W_:,j x̄_j, is a constant, and a bias can stand in for it. What
cannot be replaced that way is the variance of the input, so that is what the metric weighs the weights with.

Shapes: O consumer outputs · I consumer inputs (= N·K) · N units · K channels per unit.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from slimgpt.sites import Removal, SolverOptions, expand
from slimgpt.solvers.finish import per_unit, remove_lowest
from slimgpt.solvers.linalg import energy, to_float64


def flap(weight_OI: Tensor, hessian_II: Tensor, num_units: int, num_removed: int, options: SolverOptions) -> Removal:
    """Remove the units of least fluctuation; where the consumer has a bias, move it by what they gave on average."""
    score_N = fluctuation(weight_OI, hessian_II, num_units, options)
    removal = remove_lowest(weight_OI, hessian_II, score_N, num_removed, options)
    if options.bias_O is None or removal.kept_N.all():
        return removal
    return with_mean_in_bias(removal, weight_OI, hessian_II, options)


def fluctuation(weight_OI: Tensor, hessian_II: Tensor, num_units: int, options: SolverOptions) -> Tensor:
    """Σ_j ‖W_:,j‖² · Var(x_j) over the columns j of each unit, N float64."""
    assert options.mean_I is not None
    mean_I, num_tokens = to_float64(options.mean_I), options.num_tokens
    scatter_I = (to_float64(hessian_II.diagonal()) - num_tokens * mean_I.square()).clamp(min=0)
    norm_I = to_float64(weight_OI).to(scatter_I.device).square().sum(0)
    return per_unit(norm_I * scatter_I / max(num_tokens - 1, 1), num_units)


def with_mean_in_bias(removal: Removal, weight_OI: Tensor, hessian_II: Tensor, options: SolverOptions) -> Removal:
    """The same removal with b + E x̄ for a bias, E = W − W': the best constant for these weights.

    It takes T ‖E x̄‖² off the squared error tr(E H Eᵀ).
    """
    assert options.mean_I is not None and options.bias_O is not None
    kept_I = expand(removal.kept_N, weight_OI.shape[1] // len(removal.kept_N))
    lost_OI = to_float64(weight_OI)
    lost_OI[:, kept_I.to(lost_OI.device)] -= removal.weight_OI.to(lost_OI)
    shift_O = lost_OI @ to_float64(options.mean_I).to(lost_OI.device)
    bias_O = (to_float64(options.bias_O).to(shift_O.device) + shift_O).to(options.bias_O)
    total = energy(weight_OI, hessian_II)
    won = options.num_tokens * float(shift_O.square().sum()) / total if total > 0 else 0.0
    return replace(removal, bias_O=bias_O, error=max(removal.error - won, 0.0))
