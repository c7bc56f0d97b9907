"""The budget, solved exactly: how many units each site gives so that the summed loss is least.

A dynamic programme over sites. What has to go may be parameters or nanoseconds; it is counted in *quanta*, fine enough
that what rounding leaves is a few FFN channels, which go where they cost least (or come back where they win most).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_QUANTA = 8192  # 0.01 % of what can be removed


@dataclass(frozen=True)
class Offer:
    """What one site can give.

    Attributes:
        loss: what each level costs.
        saved: what each level gives (parameters, or nanoseconds); never less at a later one.
        fine: its levels are small steps (FFN channels), fit to take up what rounding leaves.
    """

    loss: tuple[float, ...]
    saved: tuple[int, ...]
    fine: bool


def solve(offers: Sequence[Offer], target: int, at_least: bool = False) -> list[int]:
    """The level of each site at which about ``target`` goes and the summed loss is least.

    ``target`` must not be more than all sites together can give. With ``at_least`` what goes is never less than it.
    """
    most = sum(offer.saved[-1] for offer in offers)
    assert 0 <= target <= most
    quantum = max(1, most // MAX_QUANTA)
    levels = _programme(offers, quantum, round(target / quantum))
    return _settle(offers, levels, target, at_least)


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


def _settle(offers: Sequence[Offer], levels: list[int], target: int, at_least: bool) -> list[int]:
    """Move fine sites a level at a time, the cheapest first, while that comes nearer to the target.

    Where less than the target is out of the question and fine sites have no more to give, others do.
    """
    while True:
        missing = target - sum(offer.saved[level] for offer, level in zip(offers, levels, strict=True))
        step = 1 if missing > 0 else -1
        moves = _moves(offers, levels, step)
        useful = [move for move in moves if distance(missing - move.saved, at_least) < distance(missing, at_least)]
        fine = [move for move in useful if offers[move.site].fine]
        chosen = fine or (useful if at_least and missing > 0 else [])
        if not chosen:
            return levels
        # A site that takes more should lose little by it; one that gives back should win much.
        best = min(chosen, key=lambda move: (step * move.rate, move.site))
        levels[best.site] = best.level


class _Move(NamedTuple):
    """A site goes to another level: what more that gives, and the loss it costs by what it gives."""

    site: int
    level: int
    saved: int
    rate: float


def _moves(offers: Sequence[Offer], levels: Sequence[int], step: int) -> list[_Move]:
    """Every site's nearest level in the direction of ``step`` that gives something else."""
    moves = []
    for site, (offer, level) in enumerate(zip(offers, levels, strict=True)):
        end = len(offer.saved) if step > 0 else -1
        for other in range(level + step, end, step):
            saved = offer.saved[other] - offer.saved[level]
            if saved:
                moves.append(_Move(site, other, saved, (offer.loss[other] - offer.loss[level]) / saved))
                break
    return moves


def distance(missing: int, at_least: bool) -> tuple[bool, float]:
    """How far from the target; where it is a limit, any plan that meets it is nearer than any that does not."""
    return at_least and missing > 0, abs(missing)
