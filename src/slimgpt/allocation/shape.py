"""What the layers of a smaller model may look like: what layouts, kernels and servers ask of sizes, in one place.

Whoever allocates, along curves or by a search, takes what a place may keep from :meth:`Shape.menu`, so that no way of
allocating can leave it. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from slimgpt.allocation.places import NOTHING, Key, Place
from slimgpt.errors import ConfigError
from slimgpt.sites import Kept


class Layout(NamedTuple):
    """What a layout asks of all layers together, and of each.

    Attributes:
        alike: all layers have one size of each part.
    """

    alike: bool = False


LAYOUTS = {"per-layer": Layout(), "uniform": Layout(alike=True)}


@dataclass(frozen=True)
class Shape:
    """What the layers of a smaller model may look like.

    Attributes:
        layout: one of ``LAYOUTS``.
        round_to: widths are multiples of it, but for one that stays whole.
        by_members: query heads may go without their KV group.
        blocks: parts of a layer that may vanish as a whole, where a search finds that cheapest.
        tensor_parallel: devices over which every layer is split evenly.
    """

    layout: str = "per-layer"
    round_to: int = 8
    by_members: bool = False
    blocks: tuple[str, ...] = ()
    tensor_parallel: int = 1

    @property
    def alike(self) -> bool:
        """All layers have one size of each part."""
        return LAYOUTS[self.layout].alike

    @property
    def step(self) -> int:
        """Widths that are cut are multiples of it."""
        return math.lcm(self.round_to, self.tensor_parallel)

    def without_blocks(self) -> Shape:
        """The same, where every layer keeps something of every part: curves do not know what a whole block is worth."""
        return replace(self, blocks=())

    def menu(self, place: Place) -> tuple[Kept, ...]:
        """All that a place may keep, the most first.

        Raises:
            ConfigError: nothing of it goes with what is asked.
        """
        return _menu(self, place)


@lru_cache(maxsize=4096)
def _menu(shape: Shape, place: Place) -> tuple[Kept, ...]:
    num_devices = shape.tensor_parallel
    some = _widths(place, shape.step, num_devices) if place.fine else _heads(place, shape.by_members, num_devices)
    if not some:
        raise ConfigError(_cannot_be_split(place, num_devices))
    return (*some, NOTHING) if place.vanishes(shape.blocks) else tuple(some)


def _cannot_be_split(place: Place, num_devices: int) -> str:
    where = "the model" if place.layer is None else f"layer {place.layer}"
    queries, cure = "", ""
    if place.members > 1:
        queries = f" of {place.members} query heads"
        cure = ", or let query heads go by themselves (--attention-units queries)"
    return (
        f"--tensor-parallel {num_devices}: {where} has {place.num_units} {place.unit}s{queries}, and no part of them "
        f"can be split over {num_devices} devices. Give a divisor of the heads{cure}."
    )


def _widths(place: Place, step: int, num_devices: int) -> list[Kept]:
    """Multiples of ``step``, and the whole, however odd, where it can be split."""
    widths = range(place.num_units // step * step, place.narrowest(step).units - 1, -step)
    whole = {place.num_units} if place.num_units % num_devices == 0 else set()
    return [Kept(width) for width in sorted({*whole, *widths}, reverse=True)]


def _heads(place: Place, by_members: bool, num_devices: int) -> list[Kept]:
    """Units with all their members, or with some."""
    return [
        kept
        for kept in place.choices()
        if (by_members or kept.members is None) and _splits(kept.units, kept.members or place.members, num_devices)
    ]


def _splits(units: int, members: int, num_devices: int) -> bool:
    """Devices have equally many query heads, and equally many KV heads or one of them several times (as vLLM asks)."""
    return units * members % num_devices == 0 and (units % num_devices == 0 or num_devices % units == 0)


def largest(places: Sequence[Place], shape: Shape) -> dict[Key, Kept]:
    """The plan that keeps the most: everything, where a server does not ask for less."""
    return {place.key: shape.menu(place)[0] for place in places}


def least(places: Sequence[Place], shape: Shape) -> dict[Key, Kept]:
    """The plan that keeps the least: of query heads, those of whole groups."""
    return {place.key: _least(shape.menu(place)) for place in places}


def _least(menu: Collection[Kept]) -> Kept:
    return min([kept for kept in menu if kept.members is None] or menu, key=lambda kept: kept.units)
