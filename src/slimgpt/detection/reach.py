"""Which outputs of a layer's projections reach which inputs of its later projections.

One output of a projection is made NaN at the first position of a window, and what comes out NaN elsewhere was made with
it. Each window of a batch tries another output, so that a batch answers many questions.

Shapes: B windows · T tokens · D residual width · R rows (outputs) of a producer · I columns (inputs) of a consumer ·
E pairs of a row and a column that it reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from slimgpt.arch.family import weight_OI
from slimgpt.detection.decoder import Call
from slimgpt.detection.hollow import StandIn, stand_ins

NUMBERS = 1 << 21  # in the widest tensor of a pass


@dataclass(frozen=True)
class Reach:
    """What the rows of one producer do to one consumer's columns.

    Attributes:
        row_E: rows, of those that reach some columns but not all.
        column_E: the column that each reaches.
        everywhere_R: rows that reach every column.
        onward_R: rows that act on other positions than their own.
    """

    row_E: Tensor
    column_E: Tensor
    everywhere_R: Tensor
    onward_R: Tensor


class Stop(Exception):
    """Raised inside a forward pass once it has shown what it was run for."""


@dataclass(frozen=True)
class Bench:
    """A layer of a hollow model, with a way to call it.

    Attributes:
        layer: the layer.
        call: how the body calls it.
    """

    layer: nn.Module
    call: Call

    @property
    def num_tokens(self) -> int:
        """T, tokens of a window."""
        return self.call.hidden.shape[-2]

    @property
    def width(self) -> int:
        """D, the residual width."""
        return self.call.hidden.shape[-1]

    def stream(self, windows: int) -> Tensor:
        """Random numbers as a residual stream of so many windows."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn((windows, *self.call.hidden.shape[1:]), generator=generator)

    def run(self, hidden: Tensor) -> Tensor:
        """The residual stream behind the layer. (A fused kernel for attention may lose NaN on their way.)"""
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
            return self.call.again(self.layer, hidden)

    @contextmanager
    def answering(self, windows: int) -> Iterator[dict[str, StandIn]]:
        """Inside, every projection puts out what it puts out for the first window, whatever comes in."""
        stands = stand_ins(self.layer)
        noted: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path in stands:
                note = self.layer.get_submodule(path).register_forward_hook(
                    lambda module, args, out, path=path: noted.setdefault(path, out)
                )
                stack.callback(note.remove)
            self.run(self.stream(1))
        try:
            for path, out in noted.items():
                stands[path].answer = _for_windows(out, windows, self.num_tokens)
            yield {path: stands[path] for path in noted}
        finally:
            for stand_in in stands.values():
                stand_in.answer = None

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


def _for_windows(out: Tensor, windows: int, num_tokens: int) -> Tensor:
    """One window's outputs, for so many windows: T x R, if the layer lays tokens of all windows in a row, or 1 x T x R."""
    if out.dim() == 2 and len(out) == num_tokens:
        return out.repeat(windows, 1)
    return out.expand(windows, *out.shape[1:])


def order_of(bench: Bench) -> list[str]:
    """The layer's projections in the order in which they run; those that run twice, or not at all, are left out."""
    ran: list[str] = []
    with ExitStack() as stack:
        for path in stand_ins(bench.layer):
            note = bench.layer.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: ran.append(path))
            stack.callback(note.remove)
        bench.run(bench.stream(1))
    return [path for path in ran if ran.count(path) == 1]


def reaches(bench: Bench, producer: str, consumers: Sequence[str]) -> dict[str, Reach]:
    """Reach of the rows of ``producer`` into each of ``consumers`` that some, but not all, of them separate.

    A consumer is left out where no row reaches it, or all rows that were tried reach all of its columns.
    """
    rows = weight_OI(bench.layer.get_submodule(producer)).shape[0]
    first = _try(bench, producer, torch.eye(rows, dtype=torch.bool)[[0, rows // 2, rows - 1]], consumers)
    left = [path for path in consumers if path in first and _separates(first[path])]
    found: dict[str, Reach] = {}
    for parts in _ways_to_part(rows) if left else ():
        tried = [(part_R, _try(bench, producer, _codes(part_R), left)) for part_R in parts]
        for path in left:
            codes = [_one_row_each(part_R, part[path]) for part_R, part in tried]
            if all(reach is not None for reach in codes):
                found[path] = _merged([reach for reach in codes if reach is not None])
        left = [path for path in left if path not in found]
    if left:
        singly = [_try(bench, producer, flags, left) for flags in _one_by_one(rows, _batch(bench, [producer, *left]))]
        found.update({path: _joined([part[path] for part in singly]) for path in left})
    return found


def _ways_to_part(rows: int) -> Iterator[list[Tensor]]:
    """All rows; halves, as gates and what they gate often lie; every other row."""
    all_R = torch.ones(rows, dtype=torch.bool)
    first_R, even_R = torch.arange(rows) < rows // 2, torch.arange(rows) % 2 == 0
    yield from ([all_R], [first_R, ~first_R], [even_R, ~even_R])


@dataclass(frozen=True)
class _Tried:
    """In each window: the columns that became NaN, and whether any did at another position than the first."""

    reached_BI: Tensor
    onward_B: Tensor


def _separates(tried: _Tried) -> bool:
    return bool(tried.reached_BI.any()) and not bool(tried.reached_BI.all())


def _batch(bench: Bench, paths: Sequence[str]) -> int:
    widest = max(max(weight_OI(bench.layer.get_submodule(path)).shape) for path in paths)
    return max(1, NUMBERS // (bench.num_tokens * widest))


def _one_by_one(rows: int, batch: int) -> Iterator[Tensor]:
    """Flags B x R: every row alone, in batches."""
    for start in range(0, rows, batch):
        row_B = torch.arange(start, min(start + batch, rows))
        yield torch.zeros(len(row_B), rows, dtype=torch.bool).scatter_(1, row_B[:, None], True)


def _codes(part_R: Tensor) -> Tensor:
    """Flags 2·bits x R: the rows of a part whose number has a bit set, and those that have it not."""
    rows = len(part_R)
    set_BR = (torch.arange(rows) >> torch.arange(max(1, (rows - 1).bit_length()))[:, None] & 1).bool()
    return torch.cat([set_BR, ~set_BR]) & part_R


def _one_row_each(part_R: Tensor, tried: _Tried) -> Reach | None:
    """From the windows of codes, where no column is reached by more than one row of the part; else None."""
    with_bit, without_bit = tried.reached_BI.chunk(2)
    reached_I = (with_bit | without_bit).any(0)
    if not bool((with_bit ^ without_bit)[:, reached_I].all()):
        return None
    row_I = (with_bit.long() << torch.arange(len(with_bit))[:, None]).sum(0)
    column_E = reached_I.nonzero().squeeze(1)
    return Reach(row_I[column_E], column_E, torch.zeros_like(part_R), tried.onward_B.any() & part_R)


def _merged(parts: Sequence[Reach]) -> Reach:
    """Reach of the rows of all parts."""
    return Reach(
        torch.cat([part.row_E for part in parts]),
        torch.cat([part.column_E for part in parts]),
        torch.stack([part.everywhere_R for part in parts]).any(0),
        torch.stack([part.onward_R for part in parts]).any(0),
    )


def _try(bench: Bench, producer: str, flags_BR: Tensor, consumers: Sequence[str]) -> dict[str, _Tried]:
    """In each window, poison the rows flagged for it at the first position; all else of the layer is as it was."""
    with bench.answering(len(flags_BR)) as answers:
        out = answers[producer].answer
        assert out is not None
        out_BTR = out.clone().view(len(flags_BR), -1, out.shape[-1])
        out_BTR[:, 0].masked_fill_(flags_BR, torch.nan)
        answers[producer].answer = out_BTR.view_as(out)
        seen = bench.inputs(bench.stream(len(flags_BR)), consumers)
    nan = {path: x_BTI.isnan() for path, x_BTI in seen.items()}
    return {path: _Tried(nan_BTI.any(1), nan_BTI[:, 1:].any(1).any(1)) for path, nan_BTI in nan.items()}


def _joined(parts: Sequence[_Tried]) -> Reach:
    """From windows of single rows."""
    everywhere_R = torch.cat([part.reached_BI.all(1) for part in parts])
    row_E, column_E, start = [], [], 0
    for part in parts:
        pairs = (part.reached_BI & ~part.reached_BI.all(1, keepdim=True)).nonzero()
        row_E.append(pairs[:, 0] + start)
        column_E.append(pairs[:, 1])
        start += len(part.reached_BI)
    return Reach(torch.cat(row_E), torch.cat(column_E), everywhere_R, torch.cat([part.onward_B for part in parts]))

Reaches = Mapping[str, Reach]
"""By the path of the producer, into one consumer."""
