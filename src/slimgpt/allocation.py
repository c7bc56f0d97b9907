"""How much goes where: from one removed fraction of all parameters to kept units at every site.

A *curve* turns an amount s (the mean removed fraction of the decoder layers) into one ratio per layer; the paper's is
the Incremental Pruning Ratio (SlimGPT, section 3.3), a logarithm of the layer's index. The *plan* then finds the s that
meets the target, rounds heads to whole units, and lets the FFN widths take the slack. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slimgpt.errors import ConfigError

Curve = Callable[[float], list[float]]
"""Amount s in [0, 1] -> removed fraction of each layer; continuous, and growing with s in every layer."""

FIRST_RATIO = 0.0625
"""r_0, the paper's ratio of the first layer."""

MIN_WIDTH = 32
"""FFN channels that always stay: llama.cpp drops a layer's attention with an empty FFN and reads 32-wide blocks."""

MAX_SEARCH_STEPS = 60  # bisection to far below one parameter


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


def _uniform_curve(num_layers: int) -> Curve:
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
    "uniform": _uniform_curve,
    "log-down": _falling(log_curve),
    "linear-down": _falling(linear_curve),
}


def scaled_curves(*shapes: Sequence[float]) -> list[Curve]:
    """Curves proportional to given ratios: they set the shape, the amount sets the level, the same for all shapes."""
    mean = sum(sum(ratios) / len(ratios) for ratios in shapes) / len(shapes)

    def curve(ratios: Sequence[float]) -> Curve:
        return lambda amount: [ratio * amount / mean for ratio in ratios]

    return [curve(ratios) for ratios in shapes]


@dataclass(frozen=True)
class SiteBudget:
    """What one site offers: ``num_units`` units of ``unit_params`` parameters each."""

    num_units: int
    unit_params: int


@dataclass(frozen=True)
class LayerBudget:
    """The two sites of a decoder layer."""

    attention: SiteBudget
    ffn: SiteBudget


@dataclass(frozen=True)
class LayerPlan:
    """Units that stay at each site of a layer."""

    attention: int
    ffn: int


def removed_params(budget: Sequence[LayerBudget], plan: Sequence[LayerPlan]) -> int:
    """Parameters that a plan removes."""
    return sum(
        (have.attention.num_units - keep.attention) * have.attention.unit_params
        + (have.ffn.num_units - keep.ffn) * have.ffn.unit_params
        for have, keep in zip(budget, plan, strict=True)
    )


def allocate(
    budget: Sequence[LayerBudget],
    target: int,
    attention_curve: Curve,
    ffn_curve: Curve,
    round_to: int = 8,
) -> list[LayerPlan]:
    """Kept units of every layer such that about ``target`` parameters go.

    Heads follow round(units x ratio), as in the paper; FFN widths are multiples of ``round_to`` and take the slack, so
    that the total is met to about half of one rounding step of one layer.

    Raises:
        ConfigError: the target is more than whole units and minimal widths allow.
    """
    floors = [LayerPlan(1, min_width(layer.ffn.num_units, round_to)) for layer in budget]
    limit = removed_params(budget, floors)
    if target > limit:
        raise ConfigError(
            f"{target:,} parameters to remove, but at most {limit:,} can go: embeddings, norms, one head group and "
            f"{MIN_WIDTH} FFN channels a layer stay. Lower --ratio."
        )
    if target <= 0:
        return [LayerPlan(layer.attention.num_units, layer.ffn.num_units) for layer in budget]
    amount = amount_for(target, lambda s: _continuous(budget, floors, attention_curve(s), ffn_curve(s)))
    heads = _whole_heads(budget, floors, attention_curve(amount), target)
    widths = _widths(budget, floors, target - _removed_heads(budget, heads), ffn_curve, round_to)
    return [LayerPlan(h, w) for h, w in zip(heads, widths, strict=True)]


def allocate_uniform(budget: Sequence[LayerBudget], target: int, round_to: int = 8) -> list[LayerPlan]:
    """The same heads and the same FFN width in every layer, so that a stock model class can hold the result.

    Raises:
        ConfigError: the layers differ already, or the target cannot be attained.
    """
    if len({(layer.attention.num_units, layer.ffn.num_units) for layer in budget}) != 1:
        raise ConfigError(
            "layout 'uniform' needs a model whose layers are all of one size, and this one's differ: "
            "use --layout per-layer."
        )
    curve = _uniform_curve(len(budget))
    plan = allocate(budget, target, curve, curve, round_to)
    if target <= 0:
        return plan
    heads = plan[0].attention
    per_channel = sum(layer.ffn.unit_params for layer in budget)
    left = target - removed_params(budget, [LayerPlan(heads, layer.ffn.num_units) for layer in budget])
    width = budget[0].ffn.num_units - max(left, 0) / per_channel
    floor = min_width(budget[0].ffn.num_units, round_to)
    rounded = max(floor, round_to * round(width / round_to))
    return [LayerPlan(heads, min(rounded, budget[0].ffn.num_units))] * len(budget)


def min_width(width: int, round_to: int) -> int:
    """The narrowest FFN that a plan may leave of one that is ``width`` wide."""
    return min(width, round_to * math.ceil(MIN_WIDTH / round_to))


def _continuous(
    budget: Sequence[LayerBudget],
    floors: Sequence[LayerPlan],
    attention: Sequence[float],
    ffn: Sequence[float],
) -> float:
    """Parameters removed by ratios, before any rounding."""
    total = 0.0
    for have, floor, r_attention, r_ffn in zip(budget, floors, attention, ffn, strict=True):
        heads = min(have.attention.num_units * max(r_attention, 0.0), have.attention.num_units - floor.attention)
        channels = min(have.ffn.num_units * max(r_ffn, 0.0), have.ffn.num_units - floor.ffn)
        total += heads * have.attention.unit_params + channels * have.ffn.unit_params
    return total


def amount_for(target: float, removed: Callable[[float], float]) -> float:
    """The amount whose curve removes ``target`` parameters: ``removed`` is continuous and grows, so bisect."""
    low, high = 0.0, 1.0
    while removed(high) < target and high < 1e6:  # clipped layers may need an amount above one elsewhere
        high *= 2
    for _ in range(MAX_SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if removed(middle) < target else (low, middle)
    return high


def _whole_heads(
    budget: Sequence[LayerBudget], floors: Sequence[LayerPlan], ratios: Sequence[float], target: int
) -> list[int]:
    """round(units x ratio) go, but one unit stays; more go where the narrowest FFNs would not reach the target."""
    kept = []
    for layer, ratio in zip(budget, ratios, strict=True):
        units = layer.attention.num_units
        kept.append(max(1, units - min(units, math.floor(units * max(ratio, 0.0) + 0.5))))
    most_ffn = sum(
        (layer.ffn.num_units - floor.ffn) * layer.ffn.unit_params for layer, floor in zip(budget, floors, strict=True)
    )
    while _removed_heads(budget, kept) + most_ffn < target:
        kept[max(range(len(kept)), key=kept.__getitem__)] -= 1
    return kept


def _removed_heads(budget: Sequence[LayerBudget], kept: Sequence[int]) -> int:
    """Parameters that leave with the heads."""
    return sum(
        (layer.attention.num_units - heads) * layer.attention.unit_params
        for layer, heads in zip(budget, kept, strict=True)
    )


def _widths(
    budget: Sequence[LayerBudget], floors: Sequence[LayerPlan], target: int, curve: Curve, round_to: int
) -> list[int]:
    """FFN widths that remove ``target`` parameters along the curve, rounded by largest remainders."""

    def ideal(amount: float) -> list[float]:
        return [
            max(layer.ffn.num_units * (1 - max(ratio, 0.0)), floor.ffn)
            for layer, floor, ratio in zip(budget, floors, curve(amount), strict=True)
        ]

    def removed(amount: float) -> float:
        return sum(
            (layer.ffn.num_units - width) * layer.ffn.unit_params
            for layer, width in zip(budget, ideal(amount), strict=True)
        )

    exact = ideal(amount_for(max(target, 0), removed))
    widths = [_down(width, layer.ffn.num_units, round_to) for width, layer in zip(exact, budget, strict=True)]
    return _hand_out(budget, exact, widths, target, round_to)


def _down(width: float, full: int, round_to: int) -> int:
    """The multiple of ``round_to`` at or below ``width``; a layer left whole keeps its odd width."""
    return full if width >= full else max(round_to * math.floor(width / round_to), min_width(full, round_to))


def _hand_out(
    budget: Sequence[LayerBudget], exact: Sequence[float], widths: list[int], target: int, round_to: int
) -> list[int]:
    """Give back ``round_to`` channels at a time, largest remainder first, while that comes nearer to the target."""
    excess = target_excess(budget, widths, target)
    order = sorted(range(len(widths)), key=lambda i: (widths[i] - exact[i], i))
    for index in order * 2:
        layer = budget[index].ffn
        step = min(round_to, layer.num_units - widths[index])
        if step > 0 and excess >= step * layer.unit_params / 2:
            widths[index] += step
            excess -= step * layer.unit_params
    return widths


def target_excess(budget: Sequence[LayerBudget], widths: Sequence[int], target: int) -> int:
    """How many parameters more than ``target`` these FFN widths remove."""
    return (
        sum((layer.ffn.num_units - width) * layer.ffn.unit_params for layer, width in zip(budget, widths, strict=True))
        - target
    )
