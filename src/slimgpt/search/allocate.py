"""From loss curves to the units that every layer keeps at a given size or speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml

from slimgpt.allocation import LayerPlan, min_width
from slimgpt.allocation import removed_params as removed_of
from slimgpt.goal import ATTENTION, FFN, Goal
from slimgpt.heads import Heads, choices
from slimgpt.search.cache import LossCurve, LossCurves
from slimgpt.search.programme import Offer, solve

PARTS = (ATTENTION, FFN)


def allocate(curves: LossCurves, goal: Goal, round_to: int, by_queries: bool = False) -> tuple[list[LayerPlan], float]:
    """Kept units of every layer that come to the goal, and the predicted loss in nats a token.

    The prediction adds up what single sites would cost; where much goes, the sum is more than its parts. It ranks
    allocations, and says little of the model's quality. With ``by_queries`` query heads may go where that costs less
    than whole KV groups.

    Raises:
        ConfigError: the goal is more than whole units and minimal widths allow.
    """
    menus = [menu for layer in curves.layers for menu in _menus(layer, round_to, by_queries)]
    offers = [_offer(layer[part], part, menu, goal) for (layer, part), menu in zip(_sites(curves), menus, strict=True)]
    goal.check_attainable(sum(offer.saved[-1] for offer in offers))
    levels = solve(offers, max(goal.removes, 0), goal.at_least)
    kept = [menu[level] for menu, level in zip(menus, levels, strict=True)]
    loss = sum(offer.loss[level] for offer, level in zip(offers, levels, strict=True))
    pairs = zip(kept[::2], kept[1::2], strict=True)
    return [LayerPlan(heads.units, ffn.units, heads.queries) for heads, ffn in pairs], loss


def _sites(curves: LossCurves) -> Iterator[tuple[dict[str, LossCurve], str]]:
    return ((layer, part) for layer in curves.layers for part in PARTS)


def _menus(layer: dict[str, LossCurve], round_to: int, by_queries: bool) -> tuple[list[Heads], list[Heads]]:
    """What attention and FFN of a layer may keep: FFN widths fall to multiples of ``round_to``."""
    attention, ffn = (layer[part] for part in PARTS)
    heads = [kept for kept in choices(attention.have) if by_queries or kept.queries is None]
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
