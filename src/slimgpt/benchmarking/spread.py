"""A measurement that was repeated, in three numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypedDict


class Spread(TypedDict):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of one or more repeats."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [values[0]]
    return {"median": median, "low": low, "high": high}


def ratios(values: Sequence[float], first: Sequence[float]) -> Spread:
    """Spread of ``values / first``, repeat by repeat: what slows a machine down for a while slows both down."""
    return spread([value / other for value, other in zip(values, first, strict=True)])
