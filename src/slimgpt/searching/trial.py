"""Trials of whole allocations: how far the smaller model's predictions are from the dense model's on unseen text.

Layers lie in memory as the last adopted allocation has them, and so does what enters each of them. A candidate builds
the layers anew that it changes, and runs from the first of those on.

Shapes: B windows · T tokens a window · D residual width · V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from slimgpt.allocation.places import Allocation, Key, of_layer
from slimgpt.arch.family import weight_OI
from slimgpt.evaluation.predictions import divergence_loss, targets_of
from slimgpt.evaluation.vocabulary import summed_loss
from slimgpt.machine import host
from slimgpt.model import surgery
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.embeddings_and_head import Call, embeddings, first_input, layer_calls
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.searching.levels import Levels
from slimgpt.sites import Kept, Site

KEPT_TOKENS = 64  # of each of the dense model's predictions; all others count as one


@dataclass(frozen=True)
class _State:
    """An allocation, its layers, and what enters each (and what leaves the last)."""

    plan: Allocation
    layers: list[nn.Module]
    inputs: list[Tensor]


class Trial:
    """Judges allocations of one model.

    Args:
        checkpoint: the dense model.
        levels: its sites at any size.
        windows_BT: int64 token ids.
        device: where layers run.
        dtype: dtype in which they run.
        batch_size: windows in one forward pass.
        logits: the model's head.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        levels: Levels,
        windows_BT: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        logits: Callable[[Tensor], Tensor],
    ) -> None:
        self._checkpoint = checkpoint
        self._levels = levels
        self._device = device
        self._dtype = dtype
        self._batch_size = batch_size
        self._logits = logits
        self._all_1T = torch.ones(1, windows_BT.shape[1], dtype=torch.bool, device=device)
        with torch.no_grad():
            self._first_BTD = self._embedded(windows_BT)
            dense_BTD = self._through_dense()
            logits_of_rows = map(logits, dense_BTD.split(1))
            self._targets = [targets_of(row_1TV, self._all_1T, KEPT_TOKENS, 1.0) for row_1TV in logits_of_rows]
        self._current: _State | None = None
        self._last: _State | None = None

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self._checkpoint.layers)

    @torch.no_grad()
    def divergence(self, plan: Allocation) -> float:
        """KL divergence of the predictions from the dense model's, nats a token; of its likeliest tokens and the rest.

        Raises:
            NumericalError: a damped Hessian is singular.
        """
        self._last = None  # where it is not adopted, its layers make room for these
        self._last = self._run(plan)
        host.give_back()
        last_BTD = self._last.inputs[-1]
        total = 0.0
        with self._cut_beside(plan):
            for row_1TD, targets in zip(last_BTD.split(1), self._targets, strict=True):  # a row's logits are large
                total += summed_loss(self._logits(row_1TD), self._all_1T, divergence_loss(targets)).item()
        return total / last_BTD.shape[:2].numel()

    def adopt(self) -> None:
        """What was judged last is where the next ones start from."""
        self._current = self._last

    def first_change(self, plan: Allocation) -> int:
        """The first layer that is not as adopted."""
        changed = (index for index in range(self.num_layers) if not self._is_adopted(index, plan))
        return next(changed, self.num_layers)

    def _is_adopted(self, index: int, plan: Allocation) -> bool:
        return self._current is not None and of_layer(self._current.plan, index) == of_layer(plan, index)

    def _run(self, plan: Allocation) -> _State:
        first, known = self.first_change(plan), self._current
        layers = known.layers[:first] if known else []
        inputs = known.inputs[: first + 1] if known else [self._first_BTD]
        for index in range(first, self.num_layers):
            adopted = known is not None and self._is_adopted(index, plan)
            layers.append(known.layers[index] if known and adopted else self._built(index, of_layer(plan, index)))
            inputs.append(self._through(layers[index], index, inputs[index]))
        return _State(plan, layers, inputs)

    def _built(self, index: int, keep: Mapping[str, Kept]) -> nn.Module:
        """A layer as an allocation has it."""
        layer = copy.deepcopy(self._checkpoint.layers[index])
        state = read_layer(self._checkpoint, index, self._dtype)
        layer.load_state_dict({name: tensor.to(self._device) for name, tensor in state.items()}, assign=True)
        layer.requires_grad_(False)
        for site in self._checkpoint.sites(index):
            self._cut(layer, index, site, keep[site.part])
        return layer

    def _cut(self, module: nn.Module, index: int | None, site: Site, keep: Kept) -> None:
        """Channels are cut. Stock attention does not run with fewer heads in every family: what goes is not read."""
        if keep.units == site.num_units and keep.members in (None, site.members):
            return
        weight = weight_OI(module.get_submodule(site.consumer))
        removal = self._levels.removal(index, site, keep, weight)
        if site.fine:
            surgery.remove(module, site, removal)
            return
        zeroed_OI = torch.zeros_like(weight)
        zeroed_OI[:, site.kept_columns(removal.kept_N)] = removal.weight_OI.to(zeroed_OI)
        surgery.replace_weight(module, site.consumer, zeroed_OI)

    @contextmanager
    def _cut_beside(self, plan: Allocation) -> Iterator[None]:
        """Inside, what lies behind the layers is as the allocation has it."""
        skeleton, sites = self._checkpoint.skeleton, self._checkpoint.sites(None)
        paths = {path for site in sites for path in (site.consumer, *(segment.path for segment in site.producers))}
        modules = {path: skeleton.get_submodule(path) for path in paths}
        for path, module in modules.items():
            skeleton.set_submodule(path, copy.deepcopy(module))
        try:
            for site in sites:
                self._cut(skeleton, None, site, plan[Key(None, site.part)])
            yield
        finally:
            for path, module in modules.items():
                skeleton.set_submodule(path, module)

    def _through(self, layer: nn.Module, index: int, hidden_BTD: Tensor) -> Tensor:
        args, kwargs = self._calls[index]
        outputs = []
        for batch_BTD in hidden_BTD.split(self._batch_size):
            output = layer(batch_BTD, *args, **kwargs)
            outputs.append(output[0] if isinstance(output, tuple) else output)
        return torch.cat(outputs)

    def _embedded(self, windows_BT: Tensor) -> Tensor:
        with embeddings(self._checkpoint, windows_BT.unique(), self._dtype) as body:
            calls = layer_calls(body, self._checkpoint.layers, windows_BT[:1])
            self._calls: list[Call] = send_to_device(calls, self._device)
            return first_input(body, self._checkpoint.layers[0], windows_BT).to(self._device, self._dtype)

    def _through_dense(self) -> Tensor:
        hidden_BTD = self._first_BTD
        for index, skeleton in enumerate(self._checkpoint.layers):
            with materialised(
                skeleton, read_layer(self._checkpoint, index, self._dtype), self._device, self._dtype
            ) as layer:
                hidden_BTD = self._through(layer, index, hidden_BTD)
        return hidden_BTD
