"""Ratio curves: from the mean removed fraction to the ratio of each layer. Standard library only.

The paper's is the Incremental Pruning Ratio (SlimGPT, section 3.3), a logarithm of the layer's index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Curve = Callable[[float], list[float]]
"""Amount s in [0, 1] -> removed fraction of each layer; continuous, and growing with s in every layer."""


FIRST_RATIO = 0.0625
"""r_0, the paper's ratio of the first layer."""


def _rising(shape: Sequence[float]) -> Curve:
    """From r_0 in the first layer along ``shape`` (0 at the first layer, 1 at the last)."""
    mean = sum(shape) / len(shape)

    def curve(amount: float) -> list[float]:
        # An amount above 1 is asked for where other layers have nothing more to give: then the first gives too.
        first = min(FIRST_RATIO, amount) * max(1.0, amount)
        return [first + (amount - first) / mean * height for height in shape]

    return curve


def _log_shape(num_layers: int) -> list[float]:
    if num_layers == 1:
        return [1.0]
    return [math.log(i + 1) / math.log(num_layers) for i in range(num_layers)]


def _linear_shape(num_layers: int) -> list[float]:
    if num_layers == 1:
        return [1.0]
    return [i / (num_layers - 1) for i in range(num_layers)]


def uniform_curve(num_layers: int) -> Curve:
    """Every layer loses the same share."""
    return lambda amount: [amount] * num_layers


def _falling(rising: Callable[[int], Curve]) -> Callable[[int], Curve]:
    return lambda num_layers: lambda amount: rising(num_layers)(amount)[::-1]


def log_curve(num_layers: int) -> Curve:
    """r_i = r_0 + (r_{n-1} − r_0) · log(i+1)/log(n), with r_{n-1} such that the mean is the amount."""
    return _rising(_log_shape(num_layers))


def linear_curve(num_layers: int) -> Curve:
    """r_i rises linearly with the layer's index."""
    return _rising(_linear_shape(num_layers))


CURVES: Mapping[str, Callable[[int], Curve]] = {
    "log": log_curve,
    "linear": linear_curve,
    "uniform": uniform_curve,
    "log-down": _falling(log_curve),
    "linear-down": _falling(linear_curve),
}


def scaled_curves(*shapes: Sequence[float]) -> list[Curve]:
    """Curves proportional to given ratios: they set the shape, the amount sets the level, the same for all shapes."""
    mean = sum(sum(ratios) / len(ratios) for ratios in shapes) / len(shapes)

    def curve(ratios: Sequence[float]) -> Curve:
        return lambda amount: [ratio * amount / mean for ratio in ratios]

    return [curve(ratios) for ratios in shapes]
