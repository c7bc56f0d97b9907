"""The budget, solved exactly: how many units each site gives so that the summed loss is least.

A dynamic programme over sites. Its budget is counted in *quanta* of parameters, fine enough that what rounding leaves
is a few FFN channels, which go where they cost least (or come back where they win most).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_QUANTA = 8192  # 0.01 % of what can be removed


@dataclass(frozen=True)
class Offer:
    """What one site can give.

    Attributes:
        loss: what each level costs.
        saved: parameters that go at each level, ascending from 0.
        fine: its levels are small steps (FFN channels), fit to take up what rounding leaves.
    """

    loss: tuple[float, ...]
    saved: tuple[int, ...]
    fine: bool


def solve(offers: Sequence[Offer], target: int) -> list[int]:
    """The level of each site at which about ``target`` parameters go and the summed loss is least.

    ``target`` must not be more than all sites together can give.
    """
    most = sum(offer.saved[-1] for offer in offers)
    assert 0 <= target <= most
    quantum = max(1, most // MAX_QUANTA)
    levels = _programme(offers, quantum, round(target / quantum))
    return _settle(offers, levels, target)


def _programme(offers: Sequence[Offer], quantum: int, num_quanta: int) -> list[int]:
    """Least loss for every number of quanta, site after site; then the choices are read backwards."""
    best = np.full(num_quanta + 1, np.inf)
    best[0] = 0.0
    sizes = [[round(saved / quantum) for saved in offer.saved] for offer in offers]
    choices: list[NDArray[np.int32]] = []
    for offer, size in zip(offers, sizes, strict=True):
        before, best = best, np.full(num_quanta + 1, np.inf)
        choice = np.zeros(num_quanta + 1, dtype=np.int32)
        for level, (quanta, loss) in enumerate(zip(size, offer.loss, strict=True)):
            if quanta > num_quanta:
                break
            candidate = before[: num_quanta + 1 - quanta] + loss
            better = candidate < best[quanta:]
            best[quanta:][better] = candidate[better]
            choice[quanta:][better] = level
        choices.append(choice)
    left = int(np.flatnonzero(np.isfinite(best))[-1])  # all of them, or as near as the sizes allow
    levels = []
    for choice, size in zip(reversed(choices), reversed(sizes), strict=True):
        levels.append(int(choice[left]))
        left -= size[levels[-1]]
    return levels[::-1]


def _settle(offers: Sequence[Offer], levels: list[int], target: int) -> list[int]:
    """Move fine sites a level at a time, the cheapest first, while that comes nearer to the target."""
    while True:
        missing = target - sum(offer.saved[level] for offer, level in zip(offers, levels, strict=True))
        step = 1 if missing > 0 else -1
        moves = [
            ((offer.loss[level + step] - offer.loss[level]) / (offer.saved[level + step] - offer.saved[level]), index)
            for index, (offer, level) in enumerate(zip(offers, levels, strict=True))
            if offer.fine
            and 0 <= level + step < len(offer.saved)
            and abs(missing - (offer.saved[level + step] - offer.saved[level])) < abs(missing)
        ]
        if not moves:
            return levels
        # A site that takes more should lose little by it; one that gives back should win much.
        index = min(moves)[1] if step > 0 else max(moves)[1]
        levels[index] += step
