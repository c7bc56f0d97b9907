"""Tilts: whole kinds of sites weighed up or down before the programme adds up, and each weighing tried out.

The curves are those of single sites of the dense model. Where much goes, they are wrong in the same way for sites of
the same kind: what is left of attention, say, or of the first layers, whose errors pass through all that is damaged
behind them, is worth more than its curves say. A handful of factors mends much of that, so they come before exchanges
between single sites, which need many more trials for it.

The factors are sought one at a time by steps that shrink: Hooke & Jeeves, "Direct search" solution of numerical and
statistical problems, JACM 1961.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from slimgpt.allocation.places import Place, parts_of
from slimgpt.searching.exchange import Judge, Known
from slimgpt.searching.programme import Offer, solve

STEP, LEAST_STEP = math.log(2), math.log(2) / 4  # in a factor's logarithm
MAX_CANDIDATES = 24  # steps are small by then
ENDS = 1 / 8  # of the layers: how fast the first and the last ones fade into the others


def kinds(places: Sequence[Place], num_layers: int) -> list[list[float]]:
    """How much every place is of each kind: every part but the last (attention), the first layers, the last ones."""
    parts = [[float(place.part == part) for place in places] for part in parts_of(places)[:-1]]
    return [*parts, *([_nearness(place.layer, end, num_layers) for place in places] for end in (0, num_layers - 1))]


def _nearness(layer: int | None, end: int, num_layers: int) -> float:
    """1 at one end of the layers, fading away from it; 0 beside the layers."""
    return 0.0 if layer is None else math.exp(-abs(layer - end) / (ENDS * num_layers))


def tilt(
    offers: Sequence[Offer],
    of_kind: Sequence[Sequence[float]],
    known: Known,
    target: int,
    at_least: bool,
    judge: Judge,
    num_candidates: int,
) -> tuple[Known, int]:
    """Better levels than the known ones, those without a tilt; and how many allocations were tried, at most so many."""
    tilts, step = [0.0] * len(of_kind), STEP
    seen = {tuple(known.levels)}
    while step >= LEAST_STEP:
        before = known
        for kind, sign in itertools.product(range(len(of_kind)), (1, -1)):
            changed = [value + sign * step * (index == kind) for index, value in enumerate(tilts)]
            candidate = solve(_tilted(offers, of_kind, changed), target, at_least)
            if tuple(candidate) in seen:
                continue
            if len(seen) > num_candidates:
                return known, num_candidates
            seen.add(tuple(candidate))
            loss = judge.measure(candidate)
            if loss < known.loss:
                judge.adopt()
                known, tilts = Known(candidate, loss), changed
        if known is before:
            step /= 2
    return known, len(seen) - 1


def _tilted(offers: Sequence[Offer], of_kind: Sequence[Sequence[float]], tilts: Sequence[float]) -> list[Offer]:
    """The offers with the losses that tilts make of theirs."""
    tilted = []
    for offer, *shares in zip(offers, *of_kind, strict=True):
        factor = math.exp(sum(share * value for share, value in zip(shares, tilts, strict=True)))
        tilted.append(replace(offer, loss=tuple(factor * loss for loss in offer.loss)))
    return tilted
