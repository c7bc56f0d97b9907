"""From loss curves to the units that every layer keeps at a given size."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from slimgpt.allocation import LayerPlan, min_width
from slimgpt.errors import ConfigError
from slimgpt.search.cache import LossCurve, LossCurves
from slimgpt.search.programme import Offer, solve

PARTS = ("attention", "ffn")


def allocate(curves: LossCurves, target: int, round_to: int) -> tuple[list[LayerPlan], float]:
    """Kept units of every layer such that about ``target`` parameters go, and the predicted loss in nats a token.

    The prediction adds up what single sites would cost; where much goes, the sum is more than its parts. It ranks
    allocations, and says little of the model's quality.

    Raises:
        ConfigError: the target is more than whole units and minimal widths allow.
    """
    offers = [_offer(layer[part], part, round_to) for layer in curves.layers for part in PARTS]
    most = sum(offer.params(-1) for offer in offers)
    if target > most:
        raise ConfigError(
            f"{target:,} parameters to remove, but at most {most:,} can go: embeddings, norms, one head group and a "
            "few FFN channels a layer stay. Lower --ratio."
        )
    levels = solve(offers, max(target, 0))
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


def _offer(curve: LossCurve, part: str, round_to: int) -> Offer:
    """Heads go one by one, FFN widths fall to multiples of ``round_to``."""
    if part == PARTS[0]:
        removed = tuple(range(curve.num_units))
    else:
        floor = min_width(curve.num_units, round_to)
        widths = range(curve.num_units // round_to * round_to, floor - 1, -round_to)
        removed = tuple(sorted({0, *(curve.num_units - width for width in widths)}))
    losses = tuple(curve.loss[count] for count in removed)
    return Offer(removed, losses, curve.unit_params, fine=part != PARTS[0])
