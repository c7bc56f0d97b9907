"""How sparse every layer becomes, and in which steps. Standard library only.

Sparsity is the zeros' share of the projections of a layer. Its mean over layers, weighed by their size, is the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from slimgpt.allocation.allocate import amount_for
from slimgpt.allocation.curves import CURVES

MAX_LAYER = 0.99
"""No layer becomes sparser than this."""

OWL_SPAN = 0.08
"""λ, how far OWL lets a layer be from the target: the value of the paper's main tables."""


def fractions(schedule: str, rounds: int) -> list[float]:
    """Share of the final sparsity after each round; the last is 1.

    iterative takes equal steps. gradual is the cubic schedule from zero, s_t = s_f (1 − (1 − t/n)³) (Zhu & Gupta, "To
    prune, or not to prune", https://arxiv.org/abs/1710.01878, section 3).
    """
    steps = [(step + 1) / rounds for step in range(rounds)]
    return [1 - (1 - step) ** 3 for step in steps] if schedule == "gradual" else steps


def along_curve(name: str, target: float, sizes: Sequence[int]) -> list[float]:
    """Sparsities along a curve by which structured pruning allots ratios (``"log"``: SlimGPT, section 3.3)."""
    curve = CURVES[name](len(sizes))

    def zeros(amount: float) -> float:
        return sum(size * ratio for size, ratio in zip(sizes, _within(curve(amount)), strict=True))

    if name == "uniform" or target == 0:
        return [target] * len(sizes)
    return _within(curve(amount_for(target * sum(sizes), zeros)))


def _within(ratios: Sequence[float]) -> list[float]:
    return [min(max(ratio, 0.0), MAX_LAYER) for ratio in ratios]


def owl(target: float, sizes: Sequence[int], outliers: Sequence[float]) -> list[float]:
    """Layers with a larger share of outliers stay denser (Yin et al., "Outlier Weighed Layerwise Sparsity (OWL)",
    https://arxiv.org/abs/2310.05175, section 3).

    The paper asks for sparsities that fall with the outliers' share D, stay within λ of the target, and have it as
    their mean: s_l = s + λ (D̄ − D_l) / max |D̄ − D|.

    Args:
        target: s, the mean sparsity.
        sizes: weights of each layer.
        outliers: D_l, see :mod:`slimgpt.sparsity.outliers`.
    """
    mean = sum(size * share for size, share in zip(sizes, outliers, strict=True)) / sum(sizes)
    farthest = max(abs(mean - share) for share in outliers)
    if farthest == 0:
        return [target] * len(sizes)
    span = min(OWL_SPAN, target, MAX_LAYER - target)
    return [target + span * (mean - share) / farthest for share in outliers]
