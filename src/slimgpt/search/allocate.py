"""From loss curves to the units that every layer keeps at a given size or speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from slimgpt.allocation.budget import LayerPlan, min_width
from slimgpt.allocation.budget import removed_params as removed_of
from slimgpt.allocation.goal import ATTENTION, FFN, Goal
from slimgpt.allocation.heads import Heads
from slimgpt.allocation.heads import choices as head_choices
from slimgpt.search.cache import LossCurve, LossCurves
from slimgpt.search.programme import Offer, solve

PARTS = (ATTENTION, FFN)


@dataclass(frozen=True)
class Choices:
    """What every part of every layer may keep, attention and FFN of a layer one after the other.

    Attributes:
        menus: what is kept at each level; the most first.
        offers: what each level costs and gives.
    """

    menus: list[list[Heads]]
    offers: list[Offer]

    @classmethod
    def of(cls, curves: LossCurves, goal: Goal, round_to: int, by_queries: bool = False) -> Choices:
        """Those of a model.

        Raises:
            ConfigError: the goal is more than whole units and minimal widths allow.
        """
        sites = [(layer[part], part) for layer in curves.layers for part in PARTS]
        menus = [menu for layer in curves.layers for menu in _menus(layer, round_to, by_queries)]
        offers = [_offer(curve, part, menu, goal) for (curve, part), menu in zip(sites, menus, strict=True)]
        goal.check_attainable(sum(offer.saved[-1] for offer in offers))
        return cls(menus, offers)

    def layers(self, levels: Sequence[int]) -> list[LayerPlan]:
        """Kept units of every layer."""
        kept = [menu[level] for menu, level in zip(self.menus, levels, strict=True)]
        pairs = zip(kept[::2], kept[1::2], strict=True)
        return [LayerPlan(heads.units, ffn.units, heads.queries) for heads, ffn in pairs]


def allocate(curves: LossCurves, goal: Goal, round_to: int, by_queries: bool = False) -> tuple[list[LayerPlan], float]:
    """Kept units of every layer that come to the goal, and the predicted loss in nats a token.

    The prediction adds up what single sites would cost; where much goes, the sum is more than its parts. It ranks
    allocations, and says little of the model's quality. With ``by_queries`` query heads may go where that costs less
    than whole KV groups.

    Raises:
        ConfigError: the goal is more than whole units and minimal widths allow.
    """
    choices = Choices.of(curves, goal, round_to, by_queries)
    levels = solve(choices.offers, max(goal.removes, 0), goal.at_least)
    return choices.layers(levels), sum(offer.loss[level] for offer, level in zip(choices.offers, levels, strict=True))


def _menus(layer: dict[str, LossCurve], round_to: int, by_queries: bool) -> tuple[list[Heads], list[Heads]]:
    """What attention and FFN of a layer may keep: FFN widths fall to multiples of ``round_to``."""
    attention, ffn = (layer[part] for part in PARTS)
    heads = [kept for kept in head_choices(attention.have) if by_queries or kept.queries is None]
    width = ffn.have.num_units
    widths = range(width // round_to * round_to, min_width(width, round_to) - 1, -round_to)
    return _worthwhile(attention, heads), [Heads(kept) for kept in sorted({width, *widths}, reverse=True)]


def _worthwhile(curve: LossCurve, menu: Sequence[Heads]) -> list[Heads]:
    """Without choices that lose more than another that gives at least as much; the largest first."""
    worthwhile: list[Heads] = []
    for kept in sorted(menu, key=lambda kept: (curve.have.params(*kept), curve.at(*kept))):
        if not worthwhile or curve.at(*kept) <= curve.at(*worthwhile[-1]):
            worthwhile.append(kept)
    return worthwhile[::-1]


def _offer(curve: LossCurve, part: str, menu: Sequence[Heads], goal: Goal) -> Offer:
    saved = tuple(goal.saved(curve.have, part, kept) for kept in menu)
    return Offer(tuple(curve.at(*kept) for kept in menu), saved, fine=part == FFN)


def to_yaml(curves: LossCurves, layers: Sequence[LayerPlan]) -> str:
    """The removed fraction of each part of each layer, as a file for ``slimgpt prune --allocation``."""
    pairs = list(zip(curves.layers, layers, strict=True))
    ratios = {
        "attention": [_ratio(have["attention"], Heads(keep.attention, keep.queries)) for have, keep in pairs],
        "ffn": [_ratio(have["ffn"], Heads(keep.ffn)) for have, keep in pairs],
    }
    return yaml.safe_dump(ratios, default_flow_style=None, sort_keys=False)


def _ratio(curve: LossCurve, kept: Heads) -> float:
    return 1 - curve.have.params(*kept) / curve.have.params(curve.have.num_units)


def removed_params(curves: LossCurves, layers: Sequence[LayerPlan]) -> int:
    """Parameters that go with these layers."""
    return removed_of(curves.budget, layers)
