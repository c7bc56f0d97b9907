"""From what reaches what to units: which columns of a consumer, and which rows of its producers, go together.

Plain sets of numbers: nothing here knows a model.

Shapes: I columns of a consumer (= N·K) · N units · K columns of a unit · M members of a unit · R rows of a producer ·
E pairs of a row and a column that it reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slimgpt.detection.reach import Reach
from slimgpt.sites import Segment


class NotSeparable(Exception):
    """There are no units that could go; the message is the reason, for people."""


@dataclass(frozen=True)
class Units:
    """Units of one consumer.

    Attributes:
        num_units: N.
        unit_width: K.
        members: M, equal parts of a unit with rows of their own (query heads that share keys and values); else 1.
        producers: the rows that go with the units.
        shared: producers of which some rows serve every unit, and stay.
        onward: the units act on other positions than their own.
    """

    num_units: int
    unit_width: int
    members: int
    producers: tuple[Segment, ...]
    shared: tuple[str, ...]
    onward: bool


def find_units(reaches: Mapping[str, Reach], num_columns: int) -> Units:
    """Units of a consumer whose ``num_columns`` inputs are reached by the rows of its producers.

    Raises:
        NotSeparable: all columns hang together, or units do not lie one after the other.
    """
    part_I = _parts(reaches, num_columns)
    if int(part_I.max()) == 0:  # keys and values that serve all queries
        reaches = {path: _asking(reach) for path, reach in reaches.items()}
        part_I = _parts(reaches, num_columns)
    num_units = int(part_I.max()) + 1
    if num_units < 2 or not any(len(reach.row_E) for reach in reaches.values()):
        raise NotSeparable("all its inputs hang together")
    width = num_columns // num_units
    if not torch.equal(part_I, torch.arange(num_columns) // width):
        raise NotSeparable("its inputs fall into parts of different sizes, or that do not lie side by side")
    segments: list[Segment] = []
    members = 1
    for path, reach in reaches.items():
        unit_R = _part_of_rows(reach, part_I)
        for first, last in _stretches(unit_R, num_units, path):
            per_unit = (last - first) // num_units
            own = _members(reach, first, last, num_units, width)
            members = max(members, own)
            segments.append(Segment(path, per_unit, first, by_member=own > 1))
    return Units(
        num_units=num_units,
        unit_width=width,
        members=members,
        producers=tuple(segments),
        shared=tuple(path for path, reach in reaches.items() if bool(reach.everywhere_R.any())),
        onward=any(bool(reach.onward_R.any()) for reach in reaches.values()),
    )


def _asking(reach: Reach) -> Reach:
    """Rows that act on their own position alone; the others serve everything."""
    asking_E = ~reach.onward_R[reach.row_E]
    return replace(
        reach,
        row_E=reach.row_E[asking_E],
        column_E=reach.column_E[asking_E],
        everywhere_R=reach.everywhere_R | reach.onward_R,
    )


def _parts(reaches: Mapping[str, Reach], num_columns: int) -> Tensor:
    """Part of each column, by the rows of all producers."""
    row_E = torch.cat([_offset(reaches, path) + reach.row_E for path, reach in reaches.items()])
    column_E = torch.cat([reach.column_E for reach in reaches.values()])
    return connected(row_E, column_E, num_columns)


def _offset(reaches: Mapping[str, Reach], path: str) -> int:
    """Rows of all producers are numbered through."""
    before = list(reaches)[: list(reaches).index(path)]
    return sum(len(reaches[one].everywhere_R) for one in before)


def connected(row_E: Tensor, column_E: Tensor, num_columns: int) -> Tensor:
    """Part of each column, numbered in the order of first columns: columns that a row reaches are of one part."""
    part_I = torch.arange(num_columns)
    rows = int(row_E.max()) + 1 if len(row_E) else 0
    while True:
        part_R = torch.full((rows,), num_columns).scatter_reduce(0, row_E, part_I[column_E], "amin")
        merged_I = part_I.scatter_reduce(0, column_E, part_R[row_E], "amin")
        merged_I = merged_I[merged_I]
        if torch.equal(merged_I, part_I):
            return part_I.unique(return_inverse=True)[1]
        part_I = merged_I


def _part_of_rows(reach: Reach, part_I: Tensor) -> Tensor:
    """The unit of each row; -1 for rows that reach all of them or none."""
    part_R = torch.full((len(reach.everywhere_R),), -1)
    part_R[reach.row_E] = part_I[reach.column_E]
    return part_R


def _stretches(unit_R: Tensor, num_units: int, path: str) -> Iterator[tuple[int, int]]:
    """First row and end of every stretch of rows that holds all units, one after the other, equally many rows each."""
    unit, count = unit_R.unique_consecutive(return_counts=True)
    end = count.cumsum(0)
    run = 0
    while run < len(unit):
        if int(unit[run]) < 0:
            run += 1
            continue
        last = run + num_units
        if not torch.equal(unit[run:last], torch.arange(num_units)) or len(count[run:last].unique()) != 1:
            raise NotSeparable(f"the outputs of {path} do not lie unit after unit")
        yield int(end[run] - count[run]), int(end[last - 1])
        run = last


def _members(reach: Reach, first: int, last: int, num_units: int, width: int) -> int:
    """How many equal parts of a unit have rows of their own in a stretch: rows that act on their own position only, and
    on the whole of their part.
    """
    if bool(reach.onward_R[first:last].any()):
        return 1
    inside_E = (reach.row_E >= first) & (reach.row_E < last)
    row_E, column_E = reach.row_E[inside_E] - first, reach.column_E[inside_E]
    part_I = connected(row_E, column_E, num_units * width)
    parts = int(part_I.max()) + 1
    members = parts // num_units
    even = torch.equal(part_I, torch.arange(num_units * width) // max(1, width // max(members, 1)))
    row_of_part = torch.arange(last - first) // ((last - first) // parts) if (last - first) % parts == 0 else None
    if not even or row_of_part is None or not torch.equal(part_I[column_E], row_of_part[row_E]):
        return 1
    return members
