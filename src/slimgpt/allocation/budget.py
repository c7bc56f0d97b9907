"""What layers have, and what a plan leaves of it. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_WIDTH = 32
"""FFN channels that always stay: llama.cpp drops a layer's attention with an empty FFN and reads 32-wide blocks."""


@dataclass(frozen=True)
class SiteBudget:
    """What one site offers.

    Attributes:
        num_units: units at hand.
        unit_params: parameters of one.
        members: parts of a unit that may go by themselves (query heads of a KV group), equally many of every unit.
        member_params: parameters of one of them.
    """

    num_units: int
    unit_params: int
    members: int = 1
    member_params: int = 0

    def params(self, units: int, members: int | None = None) -> int:
        """Parameters of so many units with so many members each; all of them if that is None."""
        lost = 0 if members is None else self.members - members
        return units * (self.unit_params - lost * self.member_params)


@dataclass(frozen=True)
class LayerBudget:
    """The two sites of a decoder layer."""

    attention: SiteBudget
    ffn: SiteBudget


@dataclass(frozen=True)
class LayerPlan:
    """Units that stay at each site of a layer.

    Attributes:
        attention: heads, or KV groups.
        ffn: channels.
        queries: query heads that stay in each KV group; None where all do.
    """

    attention: int
    ffn: int
    queries: int | None = None


def removed_params(budget: Sequence[LayerBudget], plan: Sequence[LayerPlan]) -> int:
    """Parameters that a plan removes."""
    return sum(
        have.attention.params(have.attention.num_units)
        - have.attention.params(keep.attention, keep.queries)
        + have.ffn.params(have.ffn.num_units - keep.ffn)
        for have, keep in zip(budget, plan, strict=True)
    )


def floors(budget: Sequence[LayerBudget], round_to: int) -> list[LayerPlan]:
    """The narrowest layers that a plan may leave."""
    return [LayerPlan(1, min_width(layer.ffn.num_units, round_to)) for layer in budget]


def min_width(width: int, round_to: int) -> int:
    """The narrowest FFN that a plan may leave of one that is ``width`` wide."""
    return min(width, round_to * math.ceil(MIN_WIDTH / round_to))
