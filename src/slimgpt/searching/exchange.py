"""Exchanges between sites, each tried out: one gives more, another gives less, and what proves better is kept.

The dynamic programme adds up what single sites would cost. Where much goes, sites interact, and only a trial of the
whole tells what an allocation is worth. So this is a local search around the programme's answer.

Source for the idea: Sieberling et al., "EvoPress: Accurate Dynamic Model Compression via Evolutionary Search", ICML
2025 (exchanges of levels between layers, judged by the KL divergence of the predictions).
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from slimgpt.searching.programme import Offer, distance

SIZES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)
"""What changes hands, as a share of what a site can give on average."""

MAX_DRAWS = 1000
"""Most draws end in an exchange; where none of so many does, there is hardly one."""


class Judge(Protocol):
    """Whoever knows what an allocation is worth."""

    def measure(self, levels: Sequence[int]) -> float:
        """The loss with these levels."""

    def adopt(self) -> None:
        """What was measured last is where the next ones start from."""


class Known(NamedTuple):
    """The best levels so far, which the judge has adopted, and their loss."""

    levels: list[int]
    loss: float


def exchange(
    offers: Sequence[Offer], known: Known, target: int, at_least: bool, judge: Judge, num_candidates: int, seed: int
) -> Known:
    """Better levels than the known ones, as near to ``target`` as those.

    ``num_candidates`` allocations are tried; those that are worse than what is known are forgotten.
    """
    rng = random.Random(seed)
    for _ in range(num_candidates):
        candidate = _neighbour(offers, known.levels, target, at_least, rng)
        if candidate is None:
            break
        loss = judge.measure(candidate)
        if loss < known.loss:
            judge.adopt()
            known = Known(candidate, loss)
    return known


def _neighbour(
    offers: Sequence[Offer], levels: Sequence[int], target: int, at_least: bool, rng: random.Random
) -> list[int] | None:
    """The same levels but for two sites, which exchange something; None where no exchange is found."""
    mean = sum(offer.saved[-1] for offer in offers) / len(offers)
    step = max((offer.saved[1] - offer.saved[0] for offer in offers if offer.fine and len(offer.saved) > 1), default=0)
    slack = step if at_least else step / 2  # what rounding may leave, and no more: giving less is no merit
    for _ in range(MAX_DRAWS):
        candidate = list(levels)
        first, second = rng.sample(range(len(offers)), 2)
        size = rng.choice((-1, 1)) * rng.choice(SIZES) * mean
        candidate[first] = _level(offers[first], offers[first].saved[levels[first]] + size)
        others = sum(offer.saved[level] for offer, level in zip(offers, candidate, strict=True))
        others -= offers[second].saved[candidate[second]]
        candidate[second] = _level(offers[second], target - others, at_least)
        missing = target - others - offers[second].saved[candidate[second]]
        if candidate[first] != levels[first] and distance(missing, at_least) <= (False, slack):
            return candidate
    return None


def _level(offer: Offer, wanted: float, at_least: bool = False) -> int:
    """The level that gives what is nearest to ``wanted``; or the first that gives it."""
    level = min(bisect_left(offer.saved, wanted), len(offer.saved) - 1)
    if at_least or level == 0:
        return level
    return level - 1 if wanted - offer.saved[level - 1] < offer.saved[level] - wanted else level
