"""Where the decoder layers of a model are, and how its body calls them.

The decoder is the outermost list of modules that all run when the model reads text alone. Nothing is looked up by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.detection.hollow import is_fused_experts, is_projection
from slimgpt.errors import ModelError


@dataclass(frozen=True)
class Call:
    """How the body called a layer.

    Attributes:
        hidden: the residual stream that entered.
        args: positional arguments after it.
        kwargs: named arguments beside it.
        named: the name by which the stream was passed; None where it came first.
        output: the residual stream that left.
        returns: length of the tuple that the layer returned, the stream first; 0 where it returned the stream alone.
    """

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    named: str | None
    output: Tensor
    returns: int

    def again(self, layer: nn.Module, hidden: Tensor) -> tuple[Any, Any]:
        """Call the layer in the same way on another stream of as many tokens.

        Returns:
            what it returned, and its arguments as it left them.
        """
        args, kwargs = _fresh(self.args), _fresh(dict(self.kwargs))
        result = layer(*args, **{self.named: hidden}, **kwargs) if self.named else layer(hidden, *args, **kwargs)
        return result, (args, kwargs)


def _fresh(value: Any) -> Any:
    """Containers anew, what they hold as it is: a layer may write into what it is given."""
    if isinstance(value, dict):
        return {key: _fresh(one) for key, one in value.items()}
    return type(value)(_fresh(one) for one in value) if type(value) in (list, tuple) else value


@dataclass
class _Seen:
    """Members of a list of modules, as they are called."""

    calls: dict[int, list[Call]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Decoder:
    """The decoder layers of a model.

    Attributes:
        path: module path of their list.
        calls: how each is called, in order.
    """

    path: str
    calls: tuple[Call, ...]

    def layers_of(self, model: nn.Module) -> nn.ModuleList:
        """The layers of a model of this class."""
        layers = model.get_submodule(self.path)
        assert isinstance(layers, nn.ModuleList)
        return layers


def find_decoder(model: nn.Module, ids_BT: Tensor) -> Decoder:
    """The decoder of a model that runs.

    Raises:
        ModelError: the model does not run on text alone, or has no list of layers that run once and in order.
    """
    lists = {path: module for path, module in model.named_modules() if _holds_projections(module)}
    with ExitStack() as stack:
        seen = {path: stack.enter_context(_watched(members)) for path, members in lists.items()}
        _run(model, ids_BT)
    ran = [path for path, members in lists.items() if len(seen[path].calls) == len(members)]
    outermost = [path for path in ran if not any(path.startswith(other + ".") for other in ran)]
    if not outermost:
        raise ModelError(f"{type(model).__name__} has no list of layers that all run on text alone.")
    path = max(outermost, key=lambda one: sum(parameter.numel() for parameter in lists[one].parameters()))
    if seen[path].order != list(range(len(lists[path]))):
        raise ModelError(f"{type(model).__name__} does not run its layers ({path}) once each and in order.")
    calls = tuple(calls[0] for _, calls in sorted(seen[path].calls.items()))
    if calls[0].hidden.dim() < 3 or calls[0].hidden.shape[:2] != ids_BT.shape:
        raise ModelError(f"{type(model).__name__} hands on several residual streams at once, not windows x tokens.")
    return Decoder(path, calls)


def _holds_projections(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.ModuleList)
        and len(module) > 0
        and any(is_projection(one) or is_fused_experts(one) for one in module.modules())
    )


def _run(model: nn.Module, ids_BT: Tensor) -> None:
    try:
        with torch.inference_mode():
            model(input_ids=ids_BT, use_cache=False)
    except Exception as error:  # the code of any model may stumble in any way
        raise ModelError(
            f"{type(model).__name__} does not run on text alone ({type(error).__name__}: {last_line(error)})."
        ) from error


def last_line(error: Exception) -> str:
    """What an error of another library says in the end; the lines before tend to repeat it."""
    return (str(error).strip().splitlines() or [repr(error)])[-1].strip().rstrip(".")


@contextmanager
def _watched(members: nn.ModuleList) -> Iterator[_Seen]:
    seen = _Seen()

    def watch(index: int) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            seen.order.append(index)
            if (call := _call(args, kwargs, output)) is not None:
                seen.calls.setdefault(index, []).append(call)

        return note

    handles = [one.register_forward_hook(watch(index), with_kwargs=True) for index, one in enumerate(members)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _call(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Call | None:
    """None where what comes in or goes out is no stream of tensors."""
    named = None if args else next(iter(kwargs), None)
    hidden = kwargs[named] if named else (args[0] if args else None)
    stream = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(hidden, Tensor) or not isinstance(stream, Tensor):
        return None
    others = {key: value for key, value in kwargs.items() if key != named}
    return Call(hidden, args[1:], others, named, stream, len(output) if isinstance(output, tuple) else 0)
