"""From loss curves to the units that every layer keeps at a given size or speed."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from slimgpt.allocation import LayerPlan, min_width
from slimgpt.goal import ATTENTION, FFN, Goal
from slimgpt.search.cache import LossCurve, LossCurves
from slimgpt.search.programme import Offer, solve

PARTS = (ATTENTION, FFN)


def allocate(curves: LossCurves, goal: Goal, round_to: int) -> tuple[list[LayerPlan], float]:
    """Kept units of every layer that come to the goal, and the predicted loss in nats a token.

    The prediction adds up what single sites would cost; where much goes, the sum is more than its parts. It ranks
    allocations, and says little of the model's quality.

    Raises:
        ConfigError: the goal is more than whole units and minimal widths allow.
    """
    offers = [_offer(layer[part], part, goal, round_to) for layer in curves.layers for part in PARTS]
    goal.check_attainable(sum(offer.saved[-1] for offer in offers))
    levels = solve(offers, max(goal.removes, 0), goal.at_least)
    kept = [
        layer[part].num_units - offer.removed[level]
        for (layer, part), offer, level in zip(
            ((layer, part) for layer in curves.layers for part in PARTS), offers, levels, strict=True
        )
    ]
    loss = sum(offer.loss[level] for offer, level in zip(offers, levels, strict=True))
    return [LayerPlan(*pair) for pair in zip(kept[::2], kept[1::2], strict=True)], loss


def to_yaml(curves: LossCurves, layers: Sequence[LayerPlan]) -> str:
    """The removed fraction of each part of each layer, as a file for ``slimgpt prune --allocation``."""
    pairs = list(zip(curves.layers, layers, strict=True))
    ratios = {part: [1 - getattr(keep, part) / have[part].num_units for have, keep in pairs] for part in PARTS}
    return yaml.safe_dump(ratios, default_flow_style=None, sort_keys=False)


def removed_params(curves: LossCurves, layers: Sequence[LayerPlan]) -> int:
    """Parameters that go with these layers."""
    return sum(
        (layer[part].num_units - getattr(keep, part)) * layer[part].unit_params
        for layer, keep in zip(curves.layers, layers, strict=True)
        for part in PARTS
    )


def _offer(curve: LossCurve, part: str, goal: Goal, round_to: int) -> Offer:
    """Heads go one by one, FFN widths fall to multiples of ``round_to``."""
    if part == ATTENTION:
        removed = tuple(range(curve.num_units))
    else:
        floor = min_width(curve.num_units, round_to)
        widths = range(curve.num_units // round_to * round_to, floor - 1, -round_to)
        removed = tuple(sorted({0, *(curve.num_units - width for width in widths)}))
    losses = tuple(curve.loss[count] for count in removed)
    saved = tuple(goal.saved(curve, part, curve.num_units - count) for count in removed)
    return Offer(removed, losses, saved, fine=part == FFN)
