"""Nested loss curves: what removing 1, 2, … units of a site would cost, in nats a token.

The curvature of the loss at one layer is nearly a Kronecker product: the inputs' moments H = X Xᵀ times the outputs'
gradient covariance M (K-FAC). So a change ΔW of the weights costs ½ tr(M ΔW H ΔWᵀ) nats: the layer-wise problem of
optimal brain surgery with M as the metric of its outputs, and with costs that may be compared between layers.

Source: Martens & Grosse, ICML 2015 (the approximation); Hassibi & Stork, NIPS 1992 (the surgery).

Shapes: O consumer outputs · I consumer inputs (= N·K) · N units (of a row: and one more) · M members of all units ·
R numbers of members gone · K inputs that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimgpt.allocation.places import Place
from slimgpt.searching.sweep import Moments
from slimgpt.sites import expand
from slimgpt.solvers.elimination import eliminate_
from slimgpt.solvers.finish import keep_all_but
from slimgpt.solvers.linalg import damped, gram, inverse_, refit
from slimgpt.solvers.members import remaining


def metric_OO(moments: Moments) -> Tensor:
    """Mean gradient covariance at a consumer's outputs, float32."""
    return moments.gradients.hessian_II() / moments.gradients.num_tokens


def loss_table(
    parts: Sequence[Moments], have: Place, num_tokens: int, damping: float, by_members: bool = True
) -> tuple[tuple[float, ...], ...]:
    """Nats a token at sites that lose equally many units (experts; else there is one).

    A row for 0, 1, … members gone of every unit, and in it 0, 1, … N removals of what is left of units: the order of
    :mod:`slimgpt.solvers.members`. Where none go ``by_members``, the first row alone.

    Raises:
        NumericalError: a damped Hessian is singular.
    """
    total_RN = torch.zeros(have.members if by_members else 1, have.num_units + 1, dtype=torch.float64)
    for moments in parts:
        total_RN += _costs(moments, have, damping, by_members)
    return tuple(map(tuple, (total_RN / (2 * num_tokens)).tolist()))


def _costs(moments: Moments, have: Place, damping: float, by_members: bool) -> Tensor:
    """The table of one site, summed over its tokens: what the members cost in turns, and then the units."""
    hessian_II, metric = moments.inputs.hessian_II(), metric_OO(moments)
    num_members, num_inputs = have.num_units * have.members, len(hessian_II)
    num_lost = num_members - have.num_units if by_members else 0
    order_M, cost_M = _eliminated(moments.weight_OI, hessian_II, metric, num_members, num_lost, damping, have.num_units)
    rows = [_eliminated(moments.weight_OI, hessian_II, metric, have.num_units, have.num_units, damping)[1]]
    for lost in range(have.num_units, num_lost + 1, have.num_units):
        kept_I = expand(keep_all_but(order_M[:lost], num_members), num_inputs // num_members)
        weight_OK = refit(moments.weight_OI, hessian_II, kept_I, damping)
        left_KK, ridge = remaining(hessian_II, kept_I, damping)
        rows.append(_eliminated(weight_OK, left_KK, metric, have.num_units, have.num_units, ridge)[1])
    before_R = torch.cat([cost_M.new_zeros(1), cost_M.unflatten(0, (-1, have.num_units)).sum(1).cumsum(0)])
    within_RN = torch.stack([torch.cat([cost_N.new_zeros(1), cost_N.cumsum(0)]) for cost_N in rows])
    return before_R[:, None].cpu() + within_RN.cpu()


def _eliminated(
    weight_OI: Tensor,
    hessian_II: Tensor,
    metric: Tensor,
    num_units: int,
    num_steps: int,
    damping: float,
    blocks: int = 1,
) -> tuple[Tensor, Tensor]:
    """Order and costs of the first ``num_steps`` removals."""
    if num_steps == 0:
        return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64)
    inverse_II = inverse_(damped(hessian_II, damping), damping)
    gram_II = gram(weight_OI, hessian_II, metric)
    return eliminate_(inverse_II, gram_II, len(gram_II) // num_units, num_steps, blocks=blocks)
