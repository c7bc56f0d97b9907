"""How much two models differ on one text, with an interval: windows are paired, and so are seeds.

The difference of a window has far less spread than either model's loss on it, because hard text is hard for both. Two
sources of chance are kept apart, and their variances added: which text was read (spread over windows) and which seed
pruned and tuned (spread over seeds). Degrees of freedom follow Satterthwaite (1946, "An approximate distribution of
estimates of variance components"): with two seeds that disagree, the interval is wide, as it should be.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Nats per token that a model loses (positive) or gains against another.

    Attributes:
        value: the mean.
        low: end of the interval.
        high: its other end.
        seeds: that were averaged. With one, spread between seeds is not in the interval.
        windows: of text.
    """

    value: float
    low: float
    high: float
    seeds: int
    windows: int

    @property
    def perplexity_ratio(self) -> tuple[float, float, float]:
        """The same as ratios of perplexities: value, low, high."""
        return math.exp(self.value), math.exp(self.low), math.exp(self.high)


@dataclass(frozen=True)
class Windows:
    """Nats of each window of a text, and the tokens predicted in each."""

    nll: tuple[float, ...]
    tokens: float


def difference(pairs: Sequence[tuple[Windows, Windows]], comparisons: int = 1) -> Difference:
    """First less second, over seeds: one pair a seed, all on the same windows.

    Args:
        pairs: what two models lose on every window.
        comparisons: that are made together; the interval is widened so that all of them hold (Bonferroni).

    Raises:
        ValueError: no pair, or pairs that are not of the same windows.
    """
    if len({len(windows.nll) for pair in pairs for windows in pair}) != 1:
        raise ValueError("models are compared on the same windows, for one seed or more")
    by_seed = [
        [(mine - theirs) / first.tokens for mine, theirs in zip(first.nll, second.nll, strict=True)]
        for first, second in pairs
    ]
    by_window = [statistics.fmean(values) for values in zip(*by_seed, strict=True)]
    value = statistics.fmean(by_window)
    parts = [_part(by_window), _part([statistics.fmean(values) for values in by_seed])]
    half = _half_width([part for part in parts if part is not None], comparisons)
    return Difference(value, value - half, value + half, len(pairs), len(by_window))


def _part(values: Sequence[float]) -> tuple[float, int] | None:
    """Variance of a mean, and its degrees of freedom; None where one value tells neither."""
    return (statistics.variance(values) / len(values), len(values) - 1) if len(values) > 1 else None


def _half_width(parts: Sequence[tuple[float, int]], comparisons: int) -> float:
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0 if parts else math.inf
    degrees = total**2 / sum(variance**2 / freedom for variance, freedom in parts)
    tail = (1 - CONFIDENCE) / 2 / comparisons
    return float(stats.t.ppf(1 - tail, degrees)) * math.sqrt(total)
