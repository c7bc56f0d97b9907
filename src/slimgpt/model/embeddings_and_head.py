"""The model around its decoder layers: the embeddings before them, the norm and the head after them.

Shapes: B windows · T tokens a window · D residual width · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.functional import linear

from slimgpt.model.checkpoint import Checkpoint

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a decoder layer, after the residual stream."""


@dataclass(frozen=True)
class Calls:
    """Arguments of the layers by the number of windows in a batch; those of one window serve batches of all sizes for
    which there are none.
    """

    by_size: Mapping[int, list[Call]]

    def of(self, index: int, num_windows: int) -> Call:
        """Of one layer."""
        return self.by_size.get(num_windows, self.by_size[1])[index]


PIECE = 8192
"""Tokens of the vocabulary whose logits are made at a time where memory counts."""


class Stop(Exception):
    """Raised inside a forward pass once it has shown what it was run for."""


@contextmanager
def embeddings(checkpoint: Checkpoint, used_tokens: Tensor, dtype: torch.dtype) -> Iterator[nn.Module]:
    """The decoder without its layers' weights, embeddings in place (on the CPU: it is a look-up)."""
    skeleton: Any = checkpoint.skeleton
    table = skeleton.get_input_embeddings().weight

    def weight(name: str, parameter: nn.Parameter) -> Tensor:
        stored = checkpoint.weights.get(name)
        return _with_rows(stored, used_tokens, dtype) if parameter is table else stored.to(dtype)

    name = _body(checkpoint)
    with _filled(checkpoint, f"{name}." if name else "", weight):
        yield skeleton.get_submodule(name)


def _body(checkpoint: Checkpoint) -> str:
    """Module path of the model without its head: by the class, or by where its layers lie if no module of the class
    has the name that it says (Llama 4). Empty where only the model itself holds them.
    """
    skeleton: Any = checkpoint.skeleton
    if skeleton.base_model is not skeleton:
        return str(skeleton.base_model_prefix)
    name, inside, _ = checkpoint.family.layers.partition(".")
    return name if inside else ""


@contextmanager
def head(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, cut: Mapping[str, Tensor] | None = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    """All that comes after the last layer, on ``device``: B x T x D residual stream to B x T x V logits.

    ``cut`` are weights that stand in for those of the same names in the checkpoint.
    """

    def weight(name: str, parameter: nn.Parameter) -> Tensor:
        stored = checkpoint.weights.get(name) if cut is None or name not in cut else cut[name]
        return stored.to(device, dtype)

    with _filled(checkpoint, "", weight):
        yield lambda hidden_BTD: _behind_layers(checkpoint, hidden_BTD)


def _behind_layers(checkpoint: Checkpoint, hidden_BTD: Tensor) -> Tensor:
    """The logits that the skeleton makes of what leaves its last layer."""
    skeleton: Any = checkpoint.skeleton
    (first, *others), returns = checkpoint.layers, checkpoint.family.returns
    with ExitStack() as stack:
        stack.enter_context(forward_replaced(first, lambda *args, **kwargs: _returned(hidden_BTD, returns)))
        for layer in others:
            stack.enter_context(forward_replaced(layer, lambda hidden, *args, **kwargs: _returned(hidden, returns)))
        any_ids = torch.zeros(hidden_BTD.shape[:2], dtype=torch.int64, device=hidden_BTD.device)
        result: Tensor = skeleton(input_ids=any_ids, use_cache=False).logits
        return result


def _returned(hidden: Tensor, returns: int) -> Any:
    """As a layer gives it back that returns so many things (0: the stream alone)."""
    return (hidden, *[None] * (returns - 1)) if returns else hidden


@contextmanager
def head_in_pieces(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype
) -> Iterator[Callable[[Tensor], Iterator[tuple[int, Tensor]]]]:
    """As :func:`head`, for a vocabulary that is never in memory as a whole: logits of ``PIECE`` tokens at a time, each
    time with the first of those tokens.
    """
    skeleton: Any = checkpoint.skeleton
    table, last = skeleton.get_input_embeddings().weight, skeleton.get_output_embeddings()
    names = {id(parameter): name for name, parameter in skeleton.named_parameters()}
    stored = checkpoint.weights.get(names[id(last.weight)])
    any_token = torch.zeros(1, dtype=torch.int64)

    def weight(name: str, parameter: nn.Parameter) -> Tensor:
        if parameter is table or parameter is last.weight:
            return _with_rows(checkpoint.weights.get(name), any_token, dtype).to(device)
        return checkpoint.weights.get(name).to(device, dtype)

    def pieces(hidden_BTD: Tensor) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(stored), PIECE):
            rows = slice(start, start + PIECE)
            part = stored[rows].to(device, dtype)
            bias = None if last.bias is None else last.bias[rows]
            with forward_replaced(last, lambda x, part=part, bias=bias: linear(x, part, bias)):
                yield start, _behind_layers(checkpoint, hidden_BTD)

    with _filled(checkpoint, "", weight):
        yield pieces


@contextmanager
def _filled(checkpoint: Checkpoint, prefix: str, weight: Callable[[str, nn.Parameter], Tensor]) -> Iterator[None]:
    """The skeleton's parameters outside its layers hold their weights; empty again afterwards, tied as before."""
    skeleton, empty, filled = checkpoint.skeleton, {}, {}
    outside = checkpoint.family.layers + "."
    for name, parameter in list(skeleton.named_parameters(remove_duplicate=False)):
        if name.startswith(prefix) and not name.startswith(outside):
            empty[name] = parameter
            if id(parameter) not in filled:
                filled[id(parameter)] = nn.Parameter(weight(name, parameter), requires_grad=False)
            _set(skeleton, name, filled[id(parameter)])
    with _frequencies_kept(skeleton):
        try:
            yield
        finally:
            for name, parameter in empty.items():
                _set(skeleton, name, parameter)


@contextmanager
def _frequencies_kept(model: nn.Module) -> Iterator[None]:
    """Rotary frequencies that grow with the longest text seen are afterwards what they were: the next text may be
    shorter, and a model that has just been loaded would read it by those.
    """
    modules = [module for module in model.modules() if module._buffers]
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


def _with_rows(stored: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """A table in ``dtype`` with these rows only: memory that is never touched is never taken."""
    table = torch.empty(stored.shape, dtype=dtype)
    table[rows] = stored[rows].to(dtype)
    return table


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)


def layer_calls(
    body: nn.Module, checkpoint: Checkpoint, windows_BT: Tensor, batch_size: int, device: torch.device
) -> Calls:
    """What the body passes to each of its layers beside the residual stream, on ``device``.

    Masks and rotary embeddings depend on positions alone. In tested families one window's serve them all by
    broadcasting; in others each size of a batch has its own.
    """
    sizes = {1}
    if not checkpoint.family.tested:
        sizes |= {min(batch_size, len(windows_BT)), len(windows_BT) % batch_size} - {0}
    return Calls({size: send_to_device(_calls(body, checkpoint, windows_BT[:size]), device) for size in sizes})


def _calls(body: nn.Module, checkpoint: Checkpoint, windows_BT: Tensor) -> list[Call]:
    calls: list[Call] = []
    layers, returns = checkpoint.layers, checkpoint.family.returns

    def recorder(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        if len(calls) == len(layers):
            raise Stop
        return _returned(hidden, returns)

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(forward_replaced(layer, recorder))
        _run_until_stop(body, windows_BT)
    return calls


def first_input(body: nn.Module, first: nn.Module, windows_BT: Tensor) -> Tensor:
    """The residual stream that enters the first layer, B x T x D."""
    caught: list[Tensor] = []

    def catch(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        caught.append(hidden)
        raise Stop

    with forward_replaced(first, catch):
        _run_until_stop(body, windows_BT)
    return caught[0]


def _run_until_stop(body: nn.Module, ids_BT: Tensor) -> None:
    try:
        body(input_ids=ids_BT, use_cache=False)
    except Stop:
        return
    raise AssertionError("the body finished without calling its layers")


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling ``module`` calls ``forward``."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
