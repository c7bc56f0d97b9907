"""Where a layer's router would send tokens if some experts were gone.

Shapes: T tokens · E experts · K experts of a token · D residual width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.errors import ConfigError
from slimgpt.experts.masking import masked_router, masked_state
from slimgpt.experts.mixture import count_of
from slimgpt.experts.watching import Routed, gates_of, watched
from slimgpt.model.embeddings_and_head import Stop


class Rerouting:
    """Runs the router of a layer, and nothing else of it.

    Args:
        layer: with its weights.
        experts: path of its experts.
        dims: tensor of the layer -> the dimension along which experts lie.

    Raises:
        ConfigError: experts and router do not lie in a block of their own.
    """

    def __init__(self, layer: nn.Module, experts: str, dims: dict[str, int]) -> None:
        self._layer, self._experts, self._dims = layer, experts, dims
        self._block = _around([*dims, experts])
        if not self._block:
            raise ConfigError(
                "--expert-score exact: the router of this model does not lie in a block of its own with its experts. "
                "Use --expert-score reap."
            )

    @contextmanager
    def inputs(self, tell: Callable[[Tensor], None]) -> Iterator[None]:
        """Inside, ``tell`` hears of the tokens that enter the block, T x D."""

        def hear(module: nn.Module, args: tuple[Any, ...]) -> None:
            tell(args[0].flatten(0, -2))

        handle = self._layer.get_submodule(self._block).register_forward_pre_hook(hear)
        try:
            yield
        finally:
            handle.remove()

    def gates(self, x_TD: Tensor, gone: Sequence[int]) -> Tensor:
        """T x E float32: the weights of all experts in the sum, 0 where a token is not sent."""
        experts, found = self._layer.get_submodule(self._experts), list[Routed]()

        def hear(module: nn.Module, routed: Routed) -> None:
            found.append(routed)
            raise Stop

        gone_E = torch.zeros(count_of(experts), dtype=torch.bool)
        gone_E[list(gone)] = True
        state = self._layer.state_dict()
        masked = masked_state(state, self._experts, self._dims, gone_E)
        others = {name: one for name, one in masked.items() if one is not state[name]}
        with ExitStack() as stack:
            stack.enter_context(_other_tensors(self._layer, others))
            stack.enter_context(watched(experts, hear))
            stack.enter_context(masked_router(self._layer, self._experts, self._dims, gone_E))
            with suppress(Stop):
                self._layer.get_submodule(self._block)(x_TD[None])
        return gates_of(experts, found[0])


@contextmanager
def _other_tensors(layer: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Inside, some tensors of a layer have other values."""
    own = layer.state_dict()
    before = {name: own[name].clone() for name in tensors}
    try:
        for name, values in tensors.items():
            own[name].copy_(values)
        yield
    finally:
        for name, values in before.items():
            own[name].copy_(values)


def _around(paths: Sequence[str]) -> str:
    """The module that holds all of them."""
    common: list[str] = []
    for names in zip(*(path.split(".")[:-1] for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)
