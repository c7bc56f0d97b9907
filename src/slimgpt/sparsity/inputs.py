"""What enters the projections of a decoder layer, added up while the layer runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from slimgpt.arch.family import projections, weight_OI
from slimgpt.errors import NumericalError
from slimgpt.solvers.stats import InputStats


class LayerInputs:
    """X Xᵀ of every projection; those that read the very same tensor, one after the other, share one sum."""

    def __init__(self) -> None:
        self._stats: dict[str, InputStats] = {}
        self._last: tuple[Tensor, InputStats] | None = None

    def hessian_II(self, path: str) -> Tensor:
        """X Xᵀ of the projection at ``path``.

        Raises:
            NumericalError: no token came there, or its inputs were not finite.
        """
        if path not in self._stats:
            raise NumericalError(
                "no calibration token came here. Likely cause: an expert that the router never chose. Give more "
                "calibration text with --samples."
            )
        return self._stats[path].hessian_II()

    def watch(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """A hook for the projection at ``path``, called before it runs."""

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if self._last is not None and self._last[0] is x:
                self._stats.setdefault(path, self._last[1])
                return
            if path not in self._stats:
                with torch.inference_mode(False):  # what is made in that mode can only be changed in it
                    self._stats[path] = InputStats(weight_OI(module).shape[1], x.device)
            self._stats[path].update(x.flatten(0, -2))
            self._last = x, self._stats[path]

        return hook

    def forget_last(self) -> None:
        """Let go of the tensor that was seen last."""
        self._last = None


@contextmanager
def watched_inputs(layer: nn.Module) -> Iterator[LayerInputs]:
    """Inside, whatever enters a projection of ``layer`` is added up."""
    inputs = LayerInputs()
    with ExitStack() as stack:
        for path, module in projections(layer).items():
            stack.callback(module.register_forward_pre_hook(inputs.watch(path)).remove)
        yield inputs
    inputs.forget_last()
