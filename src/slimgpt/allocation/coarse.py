"""How many units coarse places (heads) keep, once their ratio is known. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slimgpt.allocation.places import Key, Place, removed_params
from slimgpt.sites import Kept


def whole_units(place: Place, ratio: float) -> Kept:
    """round(units x ratio) go, but one unit stays."""
    return Kept(max(1, place.num_units - min(place.num_units, math.floor(place.num_units * ratio + 0.5))))


def nearest_units(place: Place, ratio: float) -> Kept:
    """The units, and members in each, that come nearest to the ratio in parameters; more units at a draw."""
    left = place.params(place.whole) * (1 - ratio)
    return min(place.choices(), key=lambda kept: abs(place.params(kept) - left))


def reach_(kept: dict[Key, Kept], coarse: Sequence[Place], most_fine: int, target: int) -> None:
    """Let more units go where the narrowest fine places, which give ``most_fine``, would not reach the target."""
    while removed_params(coarse, kept) + most_fine < target:
        widest = max((place.key for place in coarse), key=lambda key: kept[key].units)
        kept[widest] = kept[widest]._replace(units=kept[widest].units - 1)
