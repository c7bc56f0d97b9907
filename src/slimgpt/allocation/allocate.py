"""How much goes where: from one removed fraction of all parameters to kept units at every site.

A *curve* turns an amount s (the mean removed fraction of the decoder layers) into one ratio per layer. The *plan* finds
the s that meets the target, rounds heads to whole units, and lets the FFN widths take the slack. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from slimgpt.allocation.budget import MIN_WIDTH, LayerBudget, LayerPlan, floors, min_width, removed_params
from slimgpt.allocation.curves import (
    Curve,
    uniform_curve,
)
from slimgpt.allocation.heads import nearest_heads, reach_, removed_with, whole_heads
from slimgpt.errors import ConfigError

MAX_SEARCH_STEPS = 60  # bisection to far below one parameter


def allocate(
    budget: Sequence[LayerBudget],
    target: int,
    attention_curve: Curve,
    ffn_curve: Curve,
    round_to: int = 8,
    by_queries: bool = False,
) -> list[LayerPlan]:
    """Kept units of every layer such that about ``target`` parameters go.

    Heads follow round(units x ratio), as in the paper, or with ``by_queries`` come nearer to the ratio by losing query
    heads too; FFN widths are multiples of ``round_to`` and take the slack, so that the total is met to about half of
    one rounding step of one layer.

    Raises:
        ConfigError: the target is more than whole units and minimal widths allow.
    """
    narrowest = floors(budget, round_to)
    limit = removed_params(budget, narrowest)
    if target > limit:
        raise ConfigError(
            f"{target:,} parameters to remove, but at most {limit:,} can go: embeddings, norms, one head group and "
            f"{MIN_WIDTH} FFN channels a layer stay. Lower --ratio."
        )
    if target <= 0:
        return [LayerPlan(layer.attention.num_units, layer.ffn.num_units) for layer in budget]
    amount = amount_for(target, lambda s: _continuous(budget, narrowest, attention_curve(s), ffn_curve(s)))
    heads = (nearest_heads if by_queries else whole_heads)(budget, attention_curve(amount))
    reach_(heads, budget, narrowest, target)
    widths = _widths(budget, narrowest, target - removed_with(heads, budget), ffn_curve, round_to)
    return [LayerPlan(h.units, w, h.queries) for h, w in zip(heads, widths, strict=True)]


def allocate_uniform(
    budget: Sequence[LayerBudget], target: int, round_to: int = 8, by_queries: bool = False
) -> list[LayerPlan]:
    """The same heads and the same FFN width in every layer, so that a stock model class can hold the result.

    Raises:
        ConfigError: the layers differ already, or the target cannot be attained.
    """
    if len({(layer.attention.num_units, layer.attention.members, layer.ffn.num_units) for layer in budget}) != 1:
        raise ConfigError(
            "layout 'uniform' needs a model whose layers are all of one size, and this one's differ: "
            "use --layout per-layer."
        )
    curve = uniform_curve(len(budget))
    plan = allocate(budget, target, curve, curve, round_to, by_queries)
    if target <= 0:
        return plan
    heads = replace(plan[0], ffn=budget[0].ffn.num_units)
    per_channel = sum(layer.ffn.unit_params for layer in budget)
    left = target - removed_params(budget, [heads] * len(budget))
    width = budget[0].ffn.num_units - max(left, 0) / per_channel
    floor = min_width(budget[0].ffn.num_units, round_to)
    rounded = max(floor, round_to * round(width / round_to))
    return [replace(heads, ffn=min(rounded, budget[0].ffn.num_units))] * len(budget)


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
