"""What a model offers, and what a plan leaves of it: a table of places. Standard library only.

    a model has places; a place has units; a plan is a table: place -> what is kept

A place is data: whoever allocates knows what a unit of it costs, and never asks what it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from slimgpt.sites import Kept

MIN_WIDTH = 32
"""Channels that always stay: llama.cpp drops a layer's attention with an empty FFN and reads 32-wide blocks."""


NOTHING = Kept(0)


class Key(NamedTuple):
    """Where a place is: in which layer (None: beside the layers), and which part of it."""

    layer: int | None
    part: str


Allocation = Mapping[Key, Kept]
"""What every place keeps."""


@dataclass(frozen=True)
class Place:
    """Sites that lose units together.

    Attributes:
        layer: index of the decoder layer; None beside the layers.
        part: which part of it; places of one part are alike in all layers.
        num_units: units at hand.
        unit_params: parameters of one.
        members: parts of a unit that may go by themselves (query heads of a KV group), equally many of every unit.
        member_params: parameters of one of them.
        fine: its units are small steps (channels), fit to take up what rounding leaves.
        unit: what people call one.
        cache_values: numbers that each token leaves in the cache for one unit.
        window: tokens that its cache keeps at most, of each sequence; None where it keeps all.
        block_params: parameters that go with the last unit (norms inside a block, a bias of its outputs); None where
            the last unit has to stay.
    """

    layer: int | None
    part: str
    num_units: int
    unit_params: int
    members: int = 1
    member_params: int = 0
    fine: bool = False
    unit: str = "unit"
    cache_values: int = 0
    window: int | None = None
    block_params: int | None = None

    @property
    def key(self) -> Key:
        """Its place in a plan."""
        return Key(self.layer, self.part)

    @property
    def whole(self) -> Kept:
        """Everything."""
        return Kept(self.num_units)

    def narrowest(self, round_to: int) -> Kept:
        """The least that leaves something: one unit, or the narrowest multiple of ``round_to`` channels."""
        return Kept(min(self.num_units, round_to * math.ceil(MIN_WIDTH / round_to)) if self.fine else 1)

    def params(self, kept: Kept) -> int:
        """Parameters of what is kept."""
        lost = 0 if kept.members is None else self.members - kept.members
        return kept.units * (self.unit_params - lost * self.member_params)

    def removed(self, kept: Kept) -> int:
        """Parameters of what is not."""
        block = 0 if kept.units else self.block_params or 0
        return self.params(self.whole) - self.params(kept) + block

    def vanishes(self, blocks: Collection[str]) -> bool:
        """It may keep nothing, where ``blocks`` names the parts that may go as a whole."""
        return self.part in blocks and self.block_params is not None

    def choices(self) -> list[Kept]:
        """All that it may keep, from everything to one member of one unit."""
        members = [None, *range(self.members - 1, 0, -1)]
        return [Kept(units, each) for units, each in product(range(self.num_units, 0, -1), members)]


def whole(places: Sequence[Place]) -> dict[Key, Kept]:
    """The plan that keeps everything."""
    return {place.key: place.whole for place in places}


def removed_params(places: Sequence[Place], kept: Allocation) -> int:
    """Parameters that a plan removes."""
    return sum(place.removed(kept[place.key]) for place in places)


def of_layer(kept: Allocation, layer: int | None) -> dict[str, Kept]:
    """What each part of one layer keeps."""
    return {key.part: value for key, value in kept.items() if key.layer == layer}


def layered(places: Sequence[Place]) -> list[Place]:
    """Those of the decoder layers."""
    return [place for place in places if place.layer is not None]


def parts_of(places: Sequence[Place]) -> list[str]:
    """The parts there are, in the order of their first places."""
    return list(dict.fromkeys(place.part for place in places))
