"""A layer whose router cannot choose some of its experts, while none of its tensors is cut: what a smaller layer has to
equal.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PRODUCTS = {functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.einsum}
NEVER = -torch.inf


class _Masked(TorchFunctionMode):
    """Inside, a product with a column for each expert is never the largest in the columns of those that are gone."""

    def __init__(self, gone_E: Tensor) -> None:
        super().__init__()
        self._gone_E = gone_E

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in PRODUCTS and result.shape[-1] == len(self._gone_E):
            return result.masked_fill(self._gone_E.to(result.device), NEVER)
        return result


def masked_state(
    state: Mapping[str, Tensor], experts: str, dims: Mapping[str, int], gone_E: Tensor
) -> dict[str, Tensor]:
    """A layer's tensors, in which what a router adds for an expert that is gone says never.

    Args:
        state: the layer's tensors.
        experts: path of its experts.
        dims: tensor of the layer -> the dimension along which experts lie.
        gone_E: True for what it cannot choose.
    """
    vectors = {name for name in dims if not name.startswith(f"{experts}.") and state[name].dim() == 1}
    return {name: one.masked_fill(gone_E, NEVER) if name in vectors else one for name, one in state.items()}


@contextmanager
def masked_router(layer: nn.Module, experts: str, dims: Mapping[str, int], gone_E: Tensor) -> Iterator[None]:
    """Inside, the router of ``layer``, which holds its :func:`masked_state`, chooses no expert that is gone."""
    mode = _Masked(gone_E)
    owners = {name.rpartition(".")[0] for name in dims if not name.startswith(f"{experts}.")}
    handles = []
    for path in owners:
        module = layer.get_submodule(path)
        handles.append(module.register_forward_pre_hook(lambda *args: mode.__enter__() and None))
        handles.append(module.register_forward_hook(lambda *args: mode.__exit__(None, None, None), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
