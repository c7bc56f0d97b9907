"""A decoder layer of the skeleton with its weights in it, for as long as it is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slimgpt.machine import host
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.weights import require_finite


def read_layer(
    checkpoint: Checkpoint, index: int, dtype: torch.dtype | None, pinned: bool = False
) -> dict[str, Tensor]:
    """A layer's weights in the dtype they will have on disk (None: each in that of its file), in memory of their own (a
    file is only mapped), which a GPU copies from without waiting if it is ``pinned``.

    Raises:
        NumericalError: a weight has NaN or infinite entries, or overflows ``dtype``.
    """
    state, prefix = {}, checkpoint.layer_prefix(index)
    for name in checkpoint.layers[index].state_dict():  # one at a time: what a file is mapped to is memory too
        tensor = checkpoint.weights.get(prefix + name)
        written = dtype or tensor.dtype
        require_finite(f"layer {index}: weight {name!r}", tensor, written)
        state[name] = torch.empty(tensor.shape, dtype=written, pin_memory=pinned).copy_(tensor)
    return state


@contextmanager
def materialised(
    layer: nn.Module, state: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Iterator[nn.Module]:
    """A decoder layer of the skeleton with its weights; it may be pruned inside, and is empty again afterwards."""
    there = {name: tensor.to(device, dtype, non_blocking=True) for name, tensor in state.items()}
    computed = [
        (module, name, buffer)
        for module in layer.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name in module._non_persistent_buffers_set
    ]
    layer.load_state_dict(there, assign=True)
    layer.requires_grad_(False)
    for module, name, buffer in computed:
        module._buffers[name] = buffer.to(device)
    try:
        yield layer
    finally:
        layer.to("meta")
        del there, state
        for module, name, buffer in computed:  # no file would bring them back
            module._buffers[name] = buffer
        host.give_back()
