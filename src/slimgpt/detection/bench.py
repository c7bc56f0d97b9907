"""A layer of the hollow model, called alone: what enters its projections, and what comes out.

Shapes: B windows · T tokens · D residual width · R outputs of a projection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from slimgpt.detection.decoder import Call
from slimgpt.detection.hollow import is_stand_in


class Stop(Exception):
    """Raised inside a forward pass once it has shown what it was run for."""


@dataclass(frozen=True)
class Bench:
    """Where a layer is tried.

    Attributes:
        layer: the layer.
        call: how the body calls it, for one window.
    """

    layer: nn.Module
    call: Call

    @property
    def num_tokens(self) -> int:
        """T, tokens of a window."""
        return self.call.hidden.shape[1]

    @property
    def width(self) -> int:
        """D, the residual width."""
        return self.call.hidden.shape[-1]

    @cached_property
    def most_windows(self) -> int | None:
        """None where one window's arguments serve any number of windows, else 1."""
        try:
            self.run(self.stream(2))
        except Exception:  # the code of any model may stumble in any way
            return 1
        return None

    def stream(self, windows: int) -> Tensor:
        """Random numbers as a residual stream of so many windows."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn((windows, *self.call.hidden.shape[1:]), generator=generator)

    def run(self, hidden: Tensor) -> tuple[Any, Any]:
        """What the layer returns, and its arguments as it left them. (A fused kernel for attention may lose NaN.)"""
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
            return self.call.again(self.layer, hidden)

    def inputs(self, hidden: Tensor, consumers: Sequence[str]) -> dict[str, Tensor]:
        """What enters the projections at these paths, as windows x tokens x columns; it runs no further than they."""
        seen: dict[str, Tensor] = {}

        def watch(path: str) -> Callable[..., None]:
            def note(module: nn.Module, args: tuple[Any, ...]) -> None:
                seen[path] = args[0].reshape(len(hidden), -1, args[0].shape[-1])
                if len(seen) == len(consumers):
                    raise Stop

            return note

        with ExitStack() as stack:
            for path in consumers:
                hook = self.layer.get_submodule(path).register_forward_pre_hook(watch(path))
                stack.callback(hook.remove)
            with suppress(Stop):
                self.run(hidden)
        return seen

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """What every module that runs once puts out for one window, in the order in which they end."""
        seen: dict[str, Any] = {}
        count: Counter[str] = Counter()

        def watch(path: str) -> Callable[..., None]:
            def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                seen[path] = output
                count[path] += 1

            return note

        with ExitStack() as stack:
            for path, module in self.layer.named_modules():
                if path:
                    stack.callback(module.register_forward_hook(watch(path)).remove)
            self.run(self.stream(1))
        return {path: output for path, output in seen.items() if count[path] == 1}

    @property
    def projections(self) -> list[str]:
        """Those that run once, in the order in which they do."""
        return [path for path in self.outputs if is_stand_in(self.layer.get_submodule(path))]

    @cached_property
    def writers(self) -> list[str]:
        """Projections whose outputs go into the residual stream, and not through another projection alone."""
        return [path for path in self.projections if self._writes(path)]

    def _writes(self, path: str) -> bool:
        with self.saying({path: torch.full_like(self.outputs[path], torch.nan)}, 1):
            result, _ = self.run(self.stream(1))
        stream = result[0] if isinstance(result, tuple) else result
        return bool(stream.isnan().any())

    @contextmanager
    def saying(self, said: Mapping[str, Tensor], windows: int) -> Iterator[None]:
        """Inside, projections say what they are told, whatever comes in: those in ``said`` that, all others what they
        say for the first window. What is over before those start does not run at all.
        """
        before = list(self.outputs)[: min(list(self.outputs).index(path) for path in said)]
        over = {path for path in before if not any(path.startswith(other + ".") for other in before)}
        with ExitStack() as stack:
            for path, output in self.outputs.items():
                module = self.layer.get_submodule(path)
                answer = said.get(path, _for_windows(output, windows, self.num_tokens))
                if answer is not None and (path in over or is_stand_in(module)):
                    stack.enter_context(forward_replaced(module, _saying(answer)))
            yield


def _saying(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _each_tensor(answer, Tensor.clone)  # the layer may write into it


def _for_windows(output: Any, windows: int, num_tokens: int) -> Any:
    """One window's output for so many windows; None where its shape does not say how."""

    def of_tensor(one: Tensor) -> Tensor:
        if one.dim() and len(one) == 1:
            return one.expand(windows, *one.shape[1:])
        if one.dim() == 2 and len(one) == num_tokens:  # tokens of all windows in a row
            return one.repeat(windows, 1)
        raise Stop

    try:
        return _each_tensor(output, of_tensor)
    except Stop:
        return None


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_each_tensor(one, change) for one in value)
    if value is None:
        return None
    raise Stop


@contextmanager
def forward_replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling ``module`` calls ``forward``."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
