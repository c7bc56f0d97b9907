"""One pass forward and one backward through the dense model: what enters every site, and how the loss feels it leave.

The forward pass keeps what enters each decoder layer; the backward pass, last layer first, runs one layer again with
gradients. So there is never more than one layer in memory, whatever the size of the model.

The loss is the one that pruning should keep small: the divergence of the smaller model's predictions from the dense
model's (see :mod:`slimgpt.searching.drawn`).

Shapes: B windows · T tokens a window · D residual width · O consumer outputs · I consumer inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.embeddings_and_head import embeddings, first_input, head, layer_calls
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.searching.drawn import drawn_gradient
from slimgpt.sites import Site
from slimgpt.sites.projections import weight_OI
from slimgpt.solvers.stats import InputStats
from slimgpt.streaming.activations import ActivationRoom


@dataclass(frozen=True)
class Moments:
    """Second moments at one site of the dense model.

    Attributes:
        weight_OI: the consumer's weight.
        inputs: X Xᵀ of what enters the consumer.
        gradients: G Gᵀ of the gradients of the summed log-likelihood by the consumer's outputs.
    """

    weight_OI: Tensor
    inputs: InputStats
    gradients: InputStats


class Sweep:
    """Runs the calibration tokens forward and back.

    Args:
        checkpoint: the dense model.
        windows_BT: int64 token ids.
        device: where layers run.
        dtype: dtype in which layers run and gradients flow.
        batch_size: windows in one forward pass.
        room: where the inputs of all layers lie.
        seeds_B: int64, for each window the seed of the tokens that are drawn for it.
        stage: called with a layer and a direction, ``"forward"`` or ``"backward"``, before each.
        progress: called with the number of tokens after each batch of them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        windows_BT: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        room: ActivationRoom,
        seeds_B: Tensor,
        stage: Callable[[int, str], None] = lambda index, direction: None,
        progress: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._checkpoint = checkpoint
        self._windows_BT = windows_BT
        self._device = device
        self._dtype = dtype
        self._seeds_B = seeds_B
        self._stage = stage
        self._progress = progress
        shape = (*windows_BT.shape, checkpoint.width)
        self._inputs = [room.empty(f"input-{index}", shape) for index in range(len(checkpoint.layers) + 1)]
        self._batch_size = batch_size
        self._room = room

    def layers(self) -> Iterator[tuple[int | None, dict[str, Moments]]]:
        """Index and moments by site: of the sites behind the layers (None), if any, then from the last to the first."""
        self._forward()
        if beside := self._begin_backward():
            yield None, beside
        for index in reversed(range(len(self._checkpoint.layers))):
            self._stage(index, "backward")
            with self._layer(index) as layer:
                yield index, self._backward(layer, index)

    @contextmanager
    def _layer(self, index: int) -> Iterator[nn.Module]:
        skeleton = self._checkpoint.layers[index]
        with materialised(
            skeleton, read_layer(self._checkpoint, index, self._dtype), self._device, self._dtype
        ) as layer:
            yield layer

    @torch.no_grad()
    def _forward(self) -> None:
        """Fill the inputs of all layers. (Inference mode would make tensors that no backward pass may use.)"""
        with embeddings(self._checkpoint, self._windows_BT.unique(), self._dtype) as body:
            layers = self._checkpoint.layers
            size = min(self._batch_size, len(self._windows_BT))
            self._calls = layer_calls(body, self._checkpoint, self._windows_BT, size, self._device)
            for rows in self._batches():
                self._inputs[0][rows] = first_input(body, layers[0], self._windows_BT[rows]).to(self._inputs[0])
        for index in range(len(layers)):
            self._stage(index, "forward")
            with self._layer(index) as layer:
                for rows in self._batches():
                    output = self._run(layer, index, self._hidden(index, rows))
                    self._inputs[index + 1][rows] = output.to(self._inputs[0])
                    self._progress(output.shape[:2].numel())

    def _batches(self) -> Iterator[slice]:
        total = len(self._windows_BT)
        for start in range(0, total, self._batch_size):
            yield slice(start, min(start + self._batch_size, total))
            self._room.let_go()

    def _hidden(self, index: int, rows: slice) -> Tensor:
        return self._inputs[index][rows].to(self._device, self._dtype)

    def _run(self, layer: nn.Module, index: int, hidden_BTD: Tensor) -> Tensor:
        args, kwargs = self._calls.of(index, len(hidden_BTD))
        output = layer(hidden_BTD, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    def _begin_backward(self) -> dict[str, Moments]:
        """Put in the place of the last layer's outputs the gradients of the log-likelihood of drawn tokens by them.

        The moments of the sites on the way.
        """
        last, skeleton, sites = len(self._checkpoint.layers), self._checkpoint.skeleton, self._checkpoint.sites(None)
        with head(self._checkpoint, self._device, self._dtype) as logits, ExitStack() as stack:
            moments = {site.name: _no_moments(skeleton, site, self._device) for site in sites}
            for site in sites:
                stack.enter_context(_watched(skeleton.get_submodule(site.consumer), moments[site.name]))
            for row, seed in enumerate(self._seeds_B.tolist()):
                hidden_1TD = self._hidden(last, slice(row, row + 1))
                gradient_TD = drawn_gradient(logits, hidden_1TD, seed, self._checkpoint.vocabulary)
                self._inputs[last][row] = gradient_TD.to(self._inputs[last])
        self._gradient_BTD = self._inputs.pop()
        return moments

    def _backward(self, layer: nn.Module, index: int) -> dict[str, Moments]:
        """Run a layer with gradients: its moments. The gradients by its outputs become those by its inputs."""
        sites = self._checkpoint.sites(index)
        moments = {site.name: _no_moments(layer, site, self._device) for site in sites}
        for rows in self._batches():
            hidden = self._hidden(index, rows).requires_grad_()
            with ExitStack() as stack:
                for site in sites:
                    stack.enter_context(_watched(layer.get_submodule(site.consumer), moments[site.name]))
                output = self._run(layer, index, hidden)
                output.backward(self._gradient_BTD[rows].to(output))
            assert hidden.grad is not None
            self._gradient_BTD[rows] = hidden.grad.to(self._gradient_BTD)
            self._progress(output.shape[:2].numel())
        self._inputs.pop()
        return moments


def _no_moments(layer: nn.Module, site: Site, device: torch.device) -> Moments:
    weight = weight_OI(layer.get_submodule(site.consumer))
    num_outputs, num_inputs = weight.shape
    return Moments(weight, InputStats(num_inputs, device), InputStats(num_outputs, device))


@contextmanager
def _watched(consumer: nn.Module, moments: Moments) -> Iterator[None]:
    """Inside, what enters the consumer and the gradients that come back to its outputs are added up."""

    def watch(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        moments.inputs.update(args[0].detach().flatten(0, -2))
        output.register_hook(lambda gradient: moments.gradients.update(gradient.flatten(0, -2)))

    handle = consumer.register_forward_hook(watch)
    try:
        yield
    finally:
        handle.remove()
