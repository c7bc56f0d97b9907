"""Plain tensors of a layer that have entries for every unit, such as attention sinks or one norm a head.

They are found as rows are: what becomes NaN with the entries of some units, and what does not.

Shapes: N units · M members of a unit · K columns of a unit · I columns of the consumer (= N·K) · S entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.detection.bench import Bench
from slimgpt.detection.hollow import is_fused_experts, is_stand_in, put_
from slimgpt.detection.units import Units
from slimgpt.sites import Segment, expand


def companions(bench: Bench, consumer: str, units: Units) -> tuple[Segment, ...]:
    """Tensors whose first dimension is cut with the units of a consumer: each entry serves one unit, in their order."""
    found = []
    for path, size in _candidates(bench.layer, units.num_units):
        for parts, by_member in ((units.num_units * units.members, True), (units.num_units, False)):
            if size % parts == 0 and _follows(bench, consumer, path, units, parts):
                found.append(Segment(path, size // units.num_units, by_member=by_member and units.members > 1))
                break
    return tuple(found)


def _candidates(layer: nn.Module, num_units: int) -> list[tuple[str, int]]:
    """Parameters outside projections and experts that could be of so many parts, with their first dimension's size."""
    return [
        (f"{path}.{name}".removeprefix("."), len(parameter))
        for path, module in layer.named_modules()
        if not is_stand_in(module) and not is_fused_experts(module)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() and len(parameter) % num_units == 0
    ]


def _follows(bench: Bench, consumer: str, path: str, units: Units, parts: int) -> bool:
    """Each of ``parts`` equal runs of entries reaches its part of the columns, and no other."""
    columns = units.num_units * units.unit_width // parts
    number_P = torch.arange(parts)
    for bit in range((parts - 1).bit_length()):
        for flags_P in (number_P >> bit & 1 == 1, number_P >> bit & 1 == 0):
            with poisoned(bench.layer, path, flags_P):
                nan_I = bench.inputs(bench.stream(1), [consumer])[consumer].isnan().flatten(0, -2).any(0)
            if not torch.equal(nan_I, expand(flags_P, columns)):
                return False
    return True


@contextmanager
def poisoned(layer: Any, path: str, flags_P: Tensor) -> Iterator[None]:
    """Inside, the flagged ones of equal runs of a parameter's entries are NaN."""
    whole = layer.get_parameter(path)
    entries_S = expand(flags_P, len(whole) // len(flags_P)).view(-1, *[1] * (whole.dim() - 1))
    put_(layer, path, whole.data.masked_fill(entries_S, torch.nan))
    try:
        yield
    finally:
        put_(layer, path, whole)
