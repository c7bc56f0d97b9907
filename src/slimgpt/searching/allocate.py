"""From loss curves to what every place keeps at a given size or speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from slimgpt.allocation.goal import Goal
from slimgpt.allocation.places import Allocation, Key, Place, layered, parts_of
from slimgpt.allocation.places import removed_params as removed_of
from slimgpt.allocation.shape import Shape
from slimgpt.searching.cache import LossCurve, LossCurves
from slimgpt.searching.programme import Offer, solve
from slimgpt.sites import Kept


@dataclass(frozen=True)
class Choices:
    """What every place may keep.

    Attributes:
        places: in the order of the curves.
        menus: what is kept at each level; the most first.
        offers: what each level costs, and gives beyond the first.
        given: what the first ones give: nothing, where every place may stay whole.
    """

    places: list[Place]
    menus: list[list[Kept]]
    offers: list[Offer]
    given: int

    @classmethod
    def of(cls, curves: LossCurves, goal: Goal, shape: Shape) -> Choices:
        """Those of a model.

        Raises:
            ConfigError: the goal is more than whole units and minimal widths allow.
        """
        menus = [_menu(curve, shape, goal) for curve in curves.curves]
        offers = [_offer(curve, menu, goal) for curve, menu in zip(curves.curves, menus, strict=True)]
        given = sum(goal.saved(curve.place, menu[0]) for curve, menu in zip(curves.curves, menus, strict=True))
        goal.check_attainable(given + sum(offer.saved[-1] for offer in offers))
        return cls(curves.places, menus, offers, given)

    def target(self, goal: Goal) -> int:
        """What offers have to give."""
        return max(goal.removes - self.given, 0)

    def kept(self, levels: Sequence[int]) -> dict[Key, Kept]:
        """What every place keeps."""
        chosen = zip(self.places, self.menus, levels, strict=True)
        return {place.key: menu[level] for place, menu, level in chosen}


def allocate(curves: LossCurves, goal: Goal, shape: Shape) -> tuple[dict[Key, Kept], float]:
    """What every place keeps to come to the goal, and the predicted loss in nats a token.

    The prediction adds up what single places would cost; where much goes, the sum is more than its parts. It ranks
    allocations, and says little of the model's quality. Query heads may go where that costs less than whole KV groups,
    and blocks where that costs less than parts of others, if the ``shape`` lets them.

    Raises:
        ConfigError: the goal is more than whole units and minimal widths allow.
    """
    choices = Choices.of(curves, goal, shape)
    levels = solve(choices.offers, choices.target(goal), goal.at_least)
    return choices.kept(levels), sum(offer.loss[level] for offer, level in zip(choices.offers, levels, strict=True))


def _menu(curve: LossCurve, shape: Shape, goal: Goal) -> list[Kept]:
    """What a place may keep, the most first; of heads, what is worth a thought."""
    menu = shape.menu(curve.place)
    return list(menu) if curve.place.fine else _worthwhile(curve, menu, goal)


def _worthwhile(curve: LossCurve, menu: Sequence[Kept], goal: Goal) -> list[Kept]:
    """Without choices that lose more than another that gives at least as much; the largest first."""
    worthwhile: list[Kept] = []
    for kept in sorted(menu, key=lambda kept: (-goal.saved(curve.place, kept), curve.at(kept))):
        if not worthwhile or curve.at(kept) <= curve.at(worthwhile[-1]):
            worthwhile.append(kept)
    return worthwhile[::-1]


def _offer(curve: LossCurve, menu: Sequence[Kept], goal: Goal) -> Offer:
    first = goal.saved(curve.place, menu[0])
    saved = tuple(goal.saved(curve.place, kept) - first for kept in menu)
    return Offer(tuple(curve.at(kept) for kept in menu), saved, fine=curve.place.fine)


def to_yaml(curves: LossCurves, kept: Allocation) -> str:
    """The removed fraction of each part of each layer, as a file for ``slimgpt prune --allocation``.

    A layer without a part has 0 there.
    """
    places = layered(curves.places)
    ratios = {part: [0.0] * curves.num_layers for part in parts_of(places)}
    for place in places:
        ratios[place.part][place.layer or 0] = 1 - place.params(kept[place.key]) / place.params(place.whole)
    return yaml.safe_dump(ratios, default_flow_style=None, sort_keys=False)


def removed_params(curves: LossCurves, kept: Allocation) -> int:
    """Parameters that go with this allocation."""
    return removed_of(curves.places, kept)
