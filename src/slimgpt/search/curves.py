"""Nested loss curves: what removing 1, 2, … units of a site would cost, in nats a token.

The curvature of the loss at one layer is nearly a Kronecker product: the inputs' moments H = X Xᵀ times the outputs'
gradient covariance M (K-FAC). So a change ΔW of the weights costs ½ tr(M ΔW H ΔWᵀ) nats: the layer-wise problem of
optimal brain surgery with M as the metric of its outputs, and with costs that may be compared between layers.

Source: Martens & Grosse, ICML 2015 (the approximation); Hassibi & Stork, NIPS 1992 (the surgery).

Shapes: O consumer outputs · I consumer inputs (= N·K) · N units.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimgpt.linalg import damped, gram, inverse_
from slimgpt.search.sweep import Moments
from slimgpt.solvers.elimination import eliminate_


def metric_OO(moments: Moments) -> Tensor:
    """Mean gradient covariance at a consumer's outputs, float32."""
    return moments.gradients.hessian_II() / moments.gradients.num_tokens


def loss_curve(parts: Sequence[Moments], num_units: int, num_tokens: int, damping: float) -> tuple[float, ...]:
    """Nats a token after 0, 1, … N removals at sites that lose equally many units (experts; else there is one).

    Raises:
        NumericalError: a damped Hessian is singular.
    """
    total = torch.zeros(num_units + 1, dtype=torch.float64)
    for moments in parts:
        hessian_II = moments.inputs.hessian_II()
        inverse_II = inverse_(damped(hessian_II, damping), damping)
        gram_II = gram(moments.weight_OI, hessian_II, metric_OO(moments))
        _, cost = eliminate_(inverse_II, gram_II, len(gram_II) // num_units, num_units)
        total[1:] += cost.cumsum(0).cpu()
    return tuple((total / (2 * num_tokens)).tolist())
