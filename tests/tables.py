"""Tables of places as most models have them, attention and an FFN in every layer; what plans keep, what losses cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from slimgpt.allocation.places import Key, Place
from slimgpt.searching.cache import LossCurve, LossCurves
from slimgpt.sites import Kept


def heads(num_units: int, unit_params: int, members: int = 1, member_params: int = 0) -> Place:
    """The attention of a layer."""
    return Place(0, "attention", num_units, unit_params, members, member_params)


def channels(num_units: int, unit_params: int) -> Place:
    """The FFN of a layer."""
    return Place(0, "ffn", num_units, unit_params, fine=True)


def layers(num_layers: int, *parts: Place) -> list[Place]:
    """So many layers of these parts."""
    return stacked(*[parts] * num_layers)


def stacked(*layers: tuple[Place, ...]) -> list[Place]:
    """Layers of different parts."""
    return [replace(place, layer=index) for index, parts in enumerate(layers) for place in parts]


def plan(*layers: tuple[int | Kept, int]) -> dict[Key, Kept]:
    """What each layer keeps: heads (or query heads too) and channels."""
    kept = {}
    for index, (attention, ffn) in enumerate(layers):
        kept[Key(index, "attention")] = attention if isinstance(attention, Kept) else Kept(attention)
        kept[Key(index, "ffn")] = Kept(ffn)
    return kept


def quadratic_losses(places: Sequence[Place], num_params: int, alike: int) -> LossCurves:
    """Curves that are steeper in later layers, where so many channels are worth as much as a head."""

    def curve(place: Place) -> LossCurve:
        scale, step = 1.0 + (place.layer or 0), alike if place.fine else 1
        return LossCurve(place, (tuple(scale * (gone / step) ** 2 for gone in range(place.num_units + 1)),))

    return LossCurves("m", num_params, 2, {}, tuple(map(curve, places)))


def units(kept: Mapping[Key, Kept], part: str) -> list[int]:
    """What the layers keep of one part, one after the other."""
    return [value.units for key, value in kept.items() if key.part == part]
