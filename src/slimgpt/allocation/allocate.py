"""From one removed amount to kept units at every place, along curves.

A *curve* turns an amount s (the mean removed fraction of the decoder layers) into one ratio per layer. The *plan* finds
the s that meets the target, rounds coarse places (heads) to whole units, and lets the fine ones (channels) take the
slack. Places that no curve speaks of stay whole. Standard library only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from slimgpt.allocation.coarse import nearest, reach_
from slimgpt.allocation.curves import Curve, uniform_curve
from slimgpt.allocation.places import MIN_WIDTH, Key, Place, layered, parts_of, removed_params, whole
from slimgpt.allocation.shape import Shape, largest, least
from slimgpt.errors import ConfigError
from slimgpt.sites import Kept

MAX_SEARCH_STEPS = 60  # bisection to far below one parameter


def allocate(
    places: Sequence[Place],
    target: int,
    curves: Mapping[str, Curve],
    shape: Shape,
) -> dict[Key, Kept]:
    """Kept units of every place such that about ``target`` parameters go; ``curves`` are by part.

    All sizes are from the menus of the ``shape``. Heads follow round(units x ratio), as in the paper, or where query
    heads may go too come nearer to the ratio by them; FFN widths take the slack, so that the total is met to about half
    of one rounding step of one layer.

    Raises:
        ConfigError: the target is more than whole units and minimal widths allow.
    """
    cut = movable(places, curves)
    floors = least(cut, shape)
    limit = removed_params(cut, floors)
    if target > limit:
        raise ConfigError(
            f"{target:,} parameters to remove, but at most {limit:,} can go: embeddings, norms, one head group and "
            f"{MIN_WIDTH} FFN channels a layer stay. Lower --ratio."
        )
    kept = whole(places) | largest(cut, shape)
    if target <= 0:
        return kept
    amount = amount_for(target, lambda s: _continuous(cut, floors, ratios(cut, curves, s)))
    coarse, fine = [place for place in cut if not place.fine], [place for place in cut if place.fine]
    kept |= {
        place.key: nearest(place, ratio, shape)
        for place, ratio in zip(coarse, ratios(coarse, curves, amount), strict=True)
    }
    reach_(kept, coarse, shape, removed_params(fine, floors), target)
    widths = _widths(fine, shape, target - removed_params(coarse, kept), curves)
    return {**kept, **{place.key: Kept(width) for place, width in zip(fine, widths, strict=True)}}


def movable(places: Sequence[Place], curves: Mapping[str, Curve]) -> list[Place]:
    """The places that curves speak of."""
    return [place for place in layered(places) if place.part in curves]


def ratios(places: Sequence[Place], curves: Mapping[str, Curve], amount: float) -> list[float]:
    """What curves say of each place."""
    of_part = {part: curve(amount) for part, curve in curves.items()}
    return [max(of_part[place.part][place.layer or 0], 0.0) for place in places]


def allocate_uniform(places: Sequence[Place], num_layers: int, target: int, shape: Shape) -> dict[Key, Kept]:
    """The same heads and the same FFN width in every layer, so that a stock model class can hold the result.

    Raises:
        ConfigError: the layers differ already, or the target cannot be attained.
    """
    _check_alike(layered(places))
    curves = dict.fromkeys(parts_of(layered(places)), uniform_curve(num_layers))
    cut = movable(places, curves)
    kept = allocate(places, target, curves, shape)
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
        widths[part] = _nearest_width(num_units - left * share / per_channel, alike[0], shape)
    return {**kept, **{place.key: widths[place.part] for place in fine}}


def _nearest_width(width: float, place: Place, shape: Shape) -> Kept:
    """The allowed width nearest to ``width``, rounded to a whole number of steps."""
    rounded = shape.step * round(width / shape.step)
    return min(shape.menu(place), key=lambda kept: abs(kept.units - rounded))


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


def _widths(fine: Sequence[Place], shape: Shape, target: int, curves: Mapping[str, Curve]) -> list[int]:
    """Widths that remove ``target`` parameters along the curves, rounded by largest remainders."""
    menus = [[kept.units for kept in reversed(shape.menu(place))] for place in fine]

    def ideal(amount: float) -> list[float]:
        return [
            max(place.num_units * (1 - ratio), menu[0])
            for place, menu, ratio in zip(fine, menus, ratios(fine, curves, amount), strict=True)
        ]

    def removed(amount: float) -> float:
        return sum(
            (place.num_units - width) * place.unit_params for place, width in zip(fine, ideal(amount), strict=True)
        )

    exact = ideal(amount_for(max(target, 0), removed))
    widths = [menu[bisect_right(menu, width) - 1] for width, menu in zip(exact, menus, strict=True)]
    return _hand_out(fine, menus, exact, widths, target)


def _hand_out(
    fine: Sequence[Place], menus: Sequence[Sequence[int]], exact: Sequence[float], widths: list[int], target: int
) -> list[int]:
    """Give back channels, a step at a time, largest remainder first, while that comes nearer to the target.

    ``menus`` are the widths that places may have, ascending.
    """
    excess = sum((place.num_units - width) * place.unit_params for place, width in zip(fine, widths, strict=True))
    excess -= target
    order = sorted(range(len(widths)), key=lambda i: (widths[i] - exact[i], i))
    for index in order * 2:
        place = fine[index]
        wider = bisect_right(menus[index], widths[index])
        step = menus[index][wider] - widths[index] if wider < len(menus[index]) else 0
        if step > 0 and excess >= step * place.unit_params / 2:
            widths[index] += step
            excess -= step * place.unit_params
    return widths
