"""On along the way that training has gone: further than it came, while held-out text gets likelier.

A short run ends before it is where it is going. The straight line from the weights it began with to those it ended with
holds good models between the two (Wortsman et al., https://arxiv.org/abs/2109.01903); some way beyond its end they are
better still, and a step along it costs a measurement, not an optimiser step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

STRIDE = 0.1
FARTHEST = 2.0


class Reached(NamedTuple):
    """How far a model is along its line (0 where training began, 1 where it ended), and its held-out perplexity."""

    share: float
    perplexity: float


class Line:
    """The weights that were trained, at any point of the straight line through their beginning and their end.

    Args:
        model: after training.
        before: the same model before it, on any device and in any dtype. The line holds both once more, like the model.
    """

    def __init__(self, model: nn.Module, before: nn.Module) -> None:
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._first = {name: before.get_parameter(name).detach().to(weight) for name, weight in self._trained.items()}
        self._last: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in self._trained.items()}

    @torch.no_grad()
    def go_to(self, share: float) -> None:
        """Give the model the weights there; 1 gives back what training ended with, bit for bit."""
        for name, weight in self._trained.items():
            weight.copy_(torch.lerp(self._first[name], self._last[name], share))


def go_on(line: Line, measure: Callable[[], float], at_end: float) -> Reached:
    """Stride along the line until held-out perplexity falls no more; the model is left at the best place.

    Args:
        line: of a model that is at its end.
        measure: held-out perplexity of the model as it is.
        at_end: what that is now.
    """
    best = Reached(1.0, at_end)
    for share in _shares():
        line.go_to(share)
        found = Reached(share, measure())
        if not found.perplexity < best.perplexity:
            break
        best = found
    line.go_to(best.share)
    return best


def _shares() -> Iterator[float]:
    return (round(1 + STRIDE * stride, 2) for stride in range(1, round((FARTHEST - 1) / STRIDE) + 1))
