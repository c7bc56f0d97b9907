"""How many units coarse places (heads) keep, once their ratio is known. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence

from slimgpt.allocation.places import Key, Place, removed_params
from slimgpt.allocation.shape import Shape
from slimgpt.sites import Kept


def nearest(place: Place, ratio: float, shape: Shape) -> Kept:
    """What comes nearest to the ratio: in units, the fewer at a draw; or with members in each of them, in parameters,
    more units at a draw.
    """
    menu = shape.menu(place)
    if shape.by_members:
        left = place.params(place.whole) * (1 - ratio)
        return min(menu, key=lambda kept: abs(place.params(kept) - left))
    gone = place.num_units * ratio
    return min(reversed(menu), key=lambda kept: abs(place.num_units - kept.units - gone))


def reach_(kept: dict[Key, Kept], coarse: Sequence[Place], shape: Shape, most_fine: int, target: int) -> None:
    """Let more units go where the narrowest fine places, which give ``most_fine``, would not reach the target."""
    fewer = {place.key: fewer_units(place, kept[place.key], shape) for place in coarse}
    while removed_params(coarse, kept) + most_fine < target and any(fewer.values()):
        widest = max((place for place in coarse if fewer[place.key]), key=lambda place: kept[place.key].units).key
        kept[widest] = fewer[widest].pop(0)


def fewer_units(place: Place, kept: Kept, shape: Shape) -> list[Kept]:
    """What a place may keep that is less, with as many members in each unit; the most first."""
    return [less for less in shape.menu(place) if less.units < kept.units and less.members == kept.members]
