"""Which outputs of a layer's projections reach which inputs of its later projections.

One output of a projection is made NaN at the first position of a window, and what comes out NaN elsewhere was made with
it. Each window of a batch tries another output, so that a batch answers many questions.

Shapes: B windows · T tokens · D residual width · R rows (outputs) of a producer · I columns (inputs) of a consumer ·
E pairs of a row and a column that it reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimgpt.detection.bench import Bench
from slimgpt.sites.projections import weight_OI

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


def reaches(bench: Bench, producer: str, consumers: Sequence[str]) -> dict[str, Reach]:
    """Reach of the rows of ``producer`` into each of ``consumers`` that some, but not all, of them separate.

    A consumer is left out where no row reaches it, or where all rows that were tried reach all of its columns; but if
    they lie side by side, it is told of the latter.
    """
    rows = weight_OI(bench.layer.get_submodule(producer)).shape[0]
    first = _try(bench, producer, _alone(torch.tensor([0, rows // 2, rows - 1]), rows), consumers)
    found: dict[str, Reach] = {}
    for path, tried in first.items():
        if bool(tried.reached_BI.any()) and not bool(tried.reached_BI.all()):
            found[path] = _in_runs(bench, producer, path, rows) or _one_by_one(bench, producer, path, rows)
        elif bool(tried.reached_BI.all()) and _neighbours(producer, path):
            found[path] = _everywhere(tried, rows)
    return found


def _in_runs(bench: Bench, producer: str, consumer: str, rows: int) -> Reach | None:
    """Where rows lie in equal runs, and each column is reached by one run: found in few passes; else None."""
    half = rows // 2
    for parts in ([slice(0, rows)], [slice(0, half), slice(half, rows)], [slice(0, rows, 2), slice(1, rows, 2)]):
        reach = [_shortest_runs(bench, producer, consumer, torch.arange(rows)[part], rows) for part in parts]
        if all(one is not None for one in reach):
            return _merged([one for one in reach if one is not None])
    return None


def _shortest_runs(bench: Bench, producer: str, consumer: str, part_P: Tensor, rows: int) -> Reach | None:
    """The rows of a part in the shortest runs that still have columns of their own."""
    length, found = len(part_P), None
    for factor in (1, *_prime_factors(length)):
        tried = _try(bench, producer, _codes(part_P, length // factor, rows), [consumer])[consumer]
        if (reach := _one_run_each(part_P, length // factor, rows, tried)) is not None:
            length, found = length // factor, reach
    return found if length < len(part_P) or len(part_P) == 1 else None


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def _one_by_one(bench: Bench, producer: str, consumer: str, rows: int) -> Reach:
    """Every row alone."""
    widest = max(rows, weight_OI(bench.layer.get_submodule(consumer)).shape[1])
    batches = torch.arange(rows).split(max(1, NUMBERS // (bench.num_tokens * widest)))
    return _joined([_try(bench, producer, _alone(row_B, rows), [consumer])[consumer] for row_B in batches])


@dataclass(frozen=True)
class _Tried:
    """In each window: the columns that became NaN, and whether any did at another position than the first."""

    reached_BI: Tensor
    onward_B: Tensor


def _neighbours(one: str, other: str) -> bool:
    """Two modules lie in the same one."""
    return one.rpartition(".")[0] == other.rpartition(".")[0]


def _everywhere(tried: _Tried, rows: int) -> Reach:
    none_E = torch.empty(0, dtype=torch.long)
    return Reach(none_E, none_E, torch.ones(rows, dtype=torch.bool), tried.onward_B.any().expand(rows))


def _alone(row_B: Tensor, rows: int) -> Tensor:
    """Flags B x R: one row in each window."""
    return torch.zeros(len(row_B), rows, dtype=torch.bool).scatter_(1, row_B[:, None], True)


def _codes(part_P: Tensor, length: int, rows: int) -> Tensor:
    """Flags 2·bits x R: the runs of a part whose number has a bit set, and those that have it not."""
    run_P = torch.arange(len(part_P)) // length
    bits = max(1, int(run_P[-1]).bit_length())
    set_BP = (run_P >> torch.arange(bits)[:, None] & 1).bool()
    return torch.zeros(2 * bits, rows, dtype=torch.bool).index_copy_(1, part_P, torch.cat([set_BP, ~set_BP]))


def _one_run_each(part_P: Tensor, length: int, rows: int, tried: _Tried) -> Reach | None:
    """From the windows of codes, where no column is reached by more than one run of the part; else None."""
    with_bit, without_bit = tried.reached_BI.chunk(2)
    reached_I = (with_bit | without_bit).any(0)
    if not bool((with_bit ^ without_bit)[:, reached_I].all()):
        return None
    run_I = (with_bit.long() << torch.arange(len(with_bit))[:, None]).sum(0)
    run_P = torch.arange(len(part_P)) // length
    count_S = torch.bincount(run_I[reached_I], minlength=int(run_P[-1]) + 1)
    everywhere_P = count_S[run_P] == len(run_I)
    column_E = (reached_I & (count_S[run_I] < len(run_I))).nonzero().squeeze(1)
    first_row, first_column = part_P[::length], torch.full_like(count_S, len(run_I))
    first_column.scatter_reduce_(0, run_I[column_E], column_E, "amin")
    reaching_P = (first_column[run_P] < len(run_I)).nonzero().squeeze(1)
    return Reach(
        row_E=torch.cat([first_row[run_I[column_E]], part_P[reaching_P]]),
        column_E=torch.cat([column_E, first_column[run_P][reaching_P]]),
        everywhere_R=torch.zeros(rows, dtype=torch.bool).index_copy_(0, part_P, everywhere_P),
        onward_R=torch.zeros(rows, dtype=torch.bool).index_fill_(0, part_P, bool(tried.onward_B.any())),
    )


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
    windows = bench.most_windows or len(flags_BR)
    parts = [_tried(bench, producer, flags, consumers) for flags in flags_BR.split(windows)]
    reached = {path for part in parts for path in part}
    return {path: _Tried(*map(torch.cat, zip(*(part[path] for part in parts), strict=True))) for path in reached}


def _tried(bench: Bench, producer: str, flags_BR: Tensor, consumers: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    said = bench.outputs[producer]
    said_BTR = said.reshape(1, -1, said.shape[-1]).repeat(len(flags_BR), 1, 1)
    said_BTR[:, 0].masked_fill_(flags_BR, torch.nan)
    shape = (-1, said.shape[-1]) if said.dim() == 2 else (len(flags_BR), *said.shape[1:])
    with bench.saying({producer: said_BTR.view(shape)}, len(flags_BR)):
        seen = bench.inputs(bench.stream(len(flags_BR)), consumers)
    nan = {path: x_BTI.isnan() for path, x_BTI in seen.items()}
    return {path: (nan_BTI.any(1), nan_BTI[:, 1:].any(1).any(1)) for path, nan_BTI in nan.items()}


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
