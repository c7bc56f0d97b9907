"""What each decoder layer does to the residual stream, and which layers can therefore go.

Shapes: L layers · B windows · T tokens a window · D residual width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity


class StreamTurns:
    """A hook for decoder layers, one after the other: how far each turns the residual stream.

    Attributes:
        ends: the stream at the last token of every window, B x D, before the first layer and after each.
        turns: Σ 1 − cos(input, output) over the tokens, by layer.
        num_tokens: tokens that the present layer has seen.
    """

    def __init__(self) -> None:
        self.ends: list[Tensor] = []
        self.turns: list[float] = []
        self.num_tokens = 0
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def begin(self) -> None:
        """The next layer's turn."""
        self.turns.append(0.0)
        self.num_tokens = 0

    def watch(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        """A batch of windows went through the layer."""
        before_BTD, after_BTD = args[0].float(), (output[0] if isinstance(output, tuple) else output).float()
        self.turns[-1] += float((1 - cosine_similarity(before_BTD, after_BTD, dim=-1)).sum())
        self.num_tokens += before_BTD.shape[:2].numel()
        # Copies: the stream's own memory is about to take the output.
        self._inputs.append(before_BTD[:, -1].to("cpu", copy=True))
        self._outputs.append(after_BTD[:, -1].to("cpu", copy=True))

    def end(self) -> None:
        """The layer has seen all windows."""
        if not self.ends:
            self.ends.append(torch.cat(self._inputs))
        self.ends.append(torch.cat(self._outputs))
        self._inputs.clear()
        self._outputs.clear()

    def block_influence(self) -> list[float]:
        """1 − E cos(input, output) over all tokens, by layer (Men et al., "ShortGPT: Layers in Large Language Models
        are More Redundant Than You Expect", https://arxiv.org/abs/2403.03853, section 2.2).
        """
        return [turn / self.num_tokens for turn in self.turns]

    def angular_distances(self, num: int) -> list[float]:
        """For every run of ``num`` layers, by its first: the mean angle between what goes in and what comes out at the
        last token of a window, 1 being opposite (Gromov et al., "The Unreasonable Ineffectiveness of the Deeper
        Layers", https://arxiv.org/abs/2403.17887, section 3.2).
        """
        return [angular_distance(before, after) for before, after in zip(self.ends, self.ends[num:], strict=False)]


def angular_distance(before_BD: Tensor, after_BD: Tensor) -> float:
    """E arccos(cos) / π over the windows."""
    cosine_B = cosine_similarity(before_BD.double(), after_BD.double(), dim=-1).clamp(-1, 1)
    return float(cosine_B.arccos().mean()) / math.pi


def least_run(distances: Sequence[float], num: int) -> list[int]:
    """The layers of the run with the least distance."""
    first = min(range(len(distances)), key=distances.__getitem__)
    return list(range(first, first + num))


def least_influence(influence: Sequence[float], num: int) -> list[int]:
    """The ``num`` layers of least influence."""
    return sorted(sorted(range(len(influence)), key=influence.__getitem__)[:num])
