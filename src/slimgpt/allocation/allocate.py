"""From one removed amount to kept units at every place, along curves.

A *curve* turns an amount s (the mean removed fraction of the decoder layers) into one ratio per layer. The *plan* finds
the s that meets the target, rounds coarse places (heads) to whole units, and lets the fine ones (channels) take the
slack. Places that no curve speaks of stay whole. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from slimgpt.allocation.coarse import nearest_units, reach_, whole_units
from slimgpt.allocation.curves import Curve, uniform_curve
from slimgpt.allocation.places import MIN_WIDTH, Key, Place, layered, narrowest, parts_of, removed_params, whole
from slimgpt.errors import ConfigError
from slimgpt.sites import Kept

MAX_SEARCH_STEPS = 60  # bisection to far below one parameter


def allocate(
    places: Sequence[Place],
    target: int,
    curves: Mapping[str, Curve],
    round_to: int = 8,
    by_members: bool = False,
) -> dict[Key, Kept]:
    """Kept units of every place such that about ``target`` parameters go; ``curves`` are by part.

    Heads follow round(units x ratio), as in the paper, or with ``by_members`` come nearer to the ratio by losing query
    heads too; FFN widths are multiples of ``round_to`` and take the slack, so that the total is met to about half of
    one rounding step of one layer.

    Raises:
        ConfigError: the target is more than whole units and minimal widths allow.
    """
    cut = movable(places, curves)
    floors = narrowest(cut, round_to)
    limit = removed_params(cut, floors)
    if target > limit:
        raise ConfigError(
            f"{target:,} parameters to remove, but at most {limit:,} can go: embeddings, norms, one head group and "
            f"{MIN_WIDTH} FFN channels a layer stay. Lower --ratio."
        )
    kept = whole(places)
    if target <= 0:
        return kept
    amount = amount_for(target, lambda s: _continuous(cut, floors, ratios(cut, curves, s)))
    coarse, fine = [place for place in cut if not place.fine], [place for place in cut if place.fine]
    round_ = nearest_units if by_members else whole_units
    kept |= {
        place.key: round_(place, ratio) for place, ratio in zip(coarse, ratios(coarse, curves, amount), strict=True)
    }
    reach_(kept, coarse, removed_params(fine, floors), target)
    widths = _widths(fine, floors, target - removed_params(coarse, kept), curves, round_to)
    return {**kept, **{place.key: Kept(width) for place, width in zip(fine, widths, strict=True)}}


def movable(places: Sequence[Place], curves: Mapping[str, Curve]) -> list[Place]:
    """The places that curves speak of."""
    return [place for place in layered(places) if place.part in curves]


def ratios(places: Sequence[Place], curves: Mapping[str, Curve], amount: float) -> list[float]:
    """What curves say of each place."""
    of_part = {part: curve(amount) for part, curve in curves.items()}
    return [max(of_part[place.part][place.layer or 0], 0.0) for place in places]


def allocate_uniform(
    places: Sequence[Place], num_layers: int, target: int, round_to: int = 8, by_members: bool = False
) -> dict[Key, Kept]:
    """The same heads and the same FFN width in every layer, so that a stock model class can hold the result.

    Raises:
        ConfigError: the layers differ already, or the target cannot be attained.
    """
    _check_alike(layered(places))
    curves = dict.fromkeys(parts_of(layered(places)), uniform_curve(num_layers))
    cut = movable(places, curves)
    kept = allocate(places, target, curves, round_to, by_members)
    if target <= 0:
        return kept
    first = {place.part: kept[place.key] for place in reversed(cut) if not place.fine}
    kept = {**whole(places), **{place.key: first[place.part] for place in cut if not place.fine}}
    left = max(target - removed_params(cut, kept), 0)
    fine = [place for place in cut if place.fine]
    all_fine = sum(place.num_units * place.unit_params for place in fine)
    widths: dict[str, Kept] = {}
    for part in parts_of(fine):
        alike = [place for place in fine if place.part == part]
        per_channel, num_units = sum(place.unit_params for place in alike), alike[0].num_units
        share = num_units * per_channel / all_fine
        rounded = round_to * round((num_units - left * share / per_channel) / round_to)
        widths[part] = Kept(min(max(alike[0].narrowest(round_to).units, rounded), num_units))
    return {**kept, **{place.key: widths[place.part] for place in fine}}


def _check_alike(places: Sequence[Place]) -> None:
    """Raise ConfigError where a part is not of one size in all layers."""
    for part in parts_of(places):
        if len({(place.num_units, place.members) for place in places if place.part == part}) != 1:
            raise ConfigError(
                "layout 'uniform' needs a model whose layers are all of one size, and this one's differ: "
                "use --layout per-layer."
            )


def _continuous(places: Sequence[Place], floors: Mapping[Key, Kept], of_place: Sequence[float]) -> float:
    """Parameters removed by ratios, before any rounding, summed layer by layer."""

    def removed(place: Place, ratio: float) -> float:
        return min(place.num_units * ratio, place.num_units - floors[place.key].units) * place.unit_params

    pairs = zip(places, of_place, strict=True)
    return sum(
        sum(removed(place, ratio) for place, ratio in group) for _, group in groupby(pairs, key=lambda p: p[0].layer)
    )


def amount_for(target: float, removed: Callable[[float], float]) -> float:
    """The amount whose curve removes ``target`` parameters: ``removed`` is continuous and grows, so bisect."""
    low, high = 0.0, 1.0
    while removed(high) < target and high < 1e6:  # clipped layers may need an amount above one elsewhere
        high *= 2
    for _ in range(MAX_SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if removed(middle) < target else (low, middle)
    return high


def _widths(
    fine: Sequence[Place], floors: Mapping[Key, Kept], target: int, curves: Mapping[str, Curve], round_to: int
) -> list[int]:
    """Widths that remove ``target`` parameters along the curves, rounded by largest remainders."""

    def ideal(amount: float) -> list[float]:
        return [
            max(place.num_units * (1 - ratio), floors[place.key].units)
            for place, ratio in zip(fine, ratios(fine, curves, amount), strict=True)
        ]

    def removed(amount: float) -> float:
        return sum(
            (place.num_units - width) * place.unit_params for place, width in zip(fine, ideal(amount), strict=True)
        )

    exact = ideal(amount_for(max(target, 0), removed))
    widths = [_down(width, place, round_to) for width, place in zip(exact, fine, strict=True)]
    return _hand_out(fine, exact, widths, target, round_to)


def _down(width: float, place: Place, round_to: int) -> int:
    """The multiple of ``round_to`` at or below ``width``; a place left whole keeps its odd width."""
    if width >= place.num_units:
        return place.num_units
    return max(round_to * math.floor(width / round_to), place.narrowest(round_to).units)


def _hand_out(
    fine: Sequence[Place], exact: Sequence[float], widths: list[int], target: int, round_to: int
) -> list[int]:
    """Give back ``round_to`` channels at a time, largest remainder first, while that comes nearer to the target."""
    excess = sum((place.num_units - width) * place.unit_params for place, width in zip(fine, widths, strict=True))
    excess -= target
    order = sorted(range(len(widths)), key=lambda i: (widths[i] - exact[i], i))
    for index in order * 2:
        place = fine[index]
        step = min(round_to, place.num_units - widths[index])
        if step > 0 and excess >= step * place.unit_params / 2:
            widths[index] += step
            excess -= step * place.unit_params
    return widths
