"""Movement pruning: what training moves towards zero goes (Sanh et al., https://arxiv.org/abs/2005.07683).

Every weight of a projection has a score, S ← S − W · ∂L/∂W', summed over the optimiser's steps: it falls where descent
shrinks the weight. At each step the lowest scores of every matrix are masked, W' = W ⊙ M, so many as a cubic schedule
says (section 4 of the paper; Zhu & Gupta, https://arxiv.org/abs/1710.01878). A masked weight rests: it keeps its value
and goes on being scored by the gradient that it would get, so that it may come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from slimgpt.arch.family import projections
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.sparsity.masks.method import count, lowest

FILE = "movement.safetensors"
"""What a checkpoint of Trainer holds beside its own: scores, masks and the values of masked weights."""

SETTLING = 0.3
"""Share of the steps at the end at which the sparsity rises no more and the survivors settle."""


def cubic_sparsity(final: float, step: int, first: int, last: int) -> float:
    """Of the schedule that starts at 0 after step ``first`` and reaches ``final`` at step ``last``."""
    done = min(max((step - first) / max(last - first, 1), 0.0), 1.0)
    return final * (1 - (1 - done) ** 3)


class ScoredWeight:
    """One matrix in training.

    Args:
        parameter: holds the masked weight.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.score = torch.zeros_like(parameter, dtype=torch.float32)
        self.masked = torch.zeros_like(parameter, dtype=torch.bool)
        self.resting = parameter.detach().clone()

    @torch.no_grad()
    def score_(self) -> None:
        """Take note of a gradient, before the optimiser's step."""
        if self.parameter.grad is not None:
            self.score -= self._whole() * self.parameter.grad

    @torch.no_grad()
    def mask_(self, sparsity: float) -> None:
        """Mask the lowest scores, after the optimiser's step; what it did to masked weights does not count."""
        self.resting = self._whole()
        flat_1N = self.score.reshape(1, -1)
        self.masked = lowest(flat_1N, count(sparsity, flat_1N.shape[1])).view_as(self.masked)
        self.parameter.copy_(self.resting.masked_fill(self.masked, 0))

    def _whole(self) -> Tensor:
        return torch.where(self.masked, self.resting, self.parameter.detach())

    def state(self) -> dict[str, Tensor]:
        """What has to be kept for training to go on."""
        return {"score": self.score, "masked": self.masked, "resting": self.resting}

    def restore_(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        for name, tensor in state.items():
            setattr(self, name, tensor.to(self.parameter.device))


class Movement(TrainerCallback):
    """Prunes while Trainer trains. Where gradients are averaged over processes, all come to the same masks.

    Args:
        layers: decoder layers; their projections are pruned (experts in fused tensors are left alone).
        final: share of every matrix that is zero in the end.
        warmup: optimiser steps before the first weight goes.
    """

    def __init__(self, layers: nn.Module, final: float, warmup: int) -> None:
        self.weights = {
            f"{index}.{path}": ScoredWeight(projection.get_parameter("weight"))
            for index, layer in layers.named_children()
            for path, projection in projections(layer).items()
        }
        self._final = final
        self._warmup = warmup

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on where a checkpoint was."""
        if state.global_step:
            stored = load_file(_folder(args, state) / FILE)
            for name, weight in self.weights.items():
                weight.restore_({key: stored[f"{name}.{key}"] for key in weight.state()})

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gradients of a whole step are there."""
        for weight in self.weights.values():
            weight.score_()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Weights have moved."""
        last = round((1 - SETTLING) * state.max_steps)
        sparsity = cubic_sparsity(self._final, state.global_step, min(self._warmup, last - 1), last)
        for weight in self.weights.values():
            weight.mask_(sparsity)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint has been written."""
        if state.is_world_process_zero:
            tensors = {
                f"{name}.{key}": tensor
                for name, weight in self.weights.items()
                for key, tensor in weight.state().items()
            }
            write_tensors(_folder(args, state) / FILE, {name: tensor.cpu() for name, tensor in tensors.items()})


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
