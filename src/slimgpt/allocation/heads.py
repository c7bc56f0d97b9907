"""How many heads each layer keeps, once its ratio is known. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from slimgpt.allocation.budget import LayerBudget, LayerPlan, SiteBudget


class Heads(NamedTuple):
    """What attention keeps: units, and query heads in each (None: all)."""

    units: int
    queries: int | None = None


def whole_heads(budget: Sequence[LayerBudget], ratios: Sequence[float]) -> list[Heads]:
    """round(units x ratio) go, but one unit stays."""
    pairs = ((layer.attention.num_units, max(ratio, 0.0)) for layer, ratio in zip(budget, ratios, strict=True))
    return [Heads(max(1, units - min(units, math.floor(units * ratio + 0.5)))) for units, ratio in pairs]


def nearest_heads(budget: Sequence[LayerBudget], ratios: Sequence[float]) -> list[Heads]:
    """The units and query heads in each that come nearest to the ratio in parameters; more units at a draw."""
    return [_nearest(layer.attention, max(ratio, 0.0)) for layer, ratio in zip(budget, ratios, strict=True)]


def _nearest(have: SiteBudget, ratio: float) -> Heads:
    left = have.params(have.num_units) * (1 - ratio)
    return min(choices(have), key=lambda heads: abs(have.params(*heads) - left))


def choices(have: SiteBudget) -> list[Heads]:
    """All that attention may keep, from everything to one query head."""
    queries = [None, *range(have.members - 1, 0, -1)]
    return [Heads(units, each) for units, each in product(range(have.num_units, 0, -1), queries)]


def reach_(heads: list[Heads], budget: Sequence[LayerBudget], floors: Sequence[LayerPlan], target: int) -> None:
    """Let more units go where the narrowest FFNs would not reach the target."""
    most_ffn = sum(
        (layer.ffn.num_units - floor.ffn) * layer.ffn.unit_params for layer, floor in zip(budget, floors, strict=True)
    )
    while removed_with(heads, budget) + most_ffn < target:
        widest = max(range(len(heads)), key=lambda index: heads[index].units)
        heads[widest] = heads[widest]._replace(units=heads[widest].units - 1)


def removed_with(heads: Sequence[Heads], budget: Sequence[LayerBudget]) -> int:
    """Parameters that leave with the heads."""
    return sum(
        layer.attention.params(layer.attention.num_units) - layer.attention.params(*kept)
        for layer, kept in zip(budget, heads, strict=True)
    )
