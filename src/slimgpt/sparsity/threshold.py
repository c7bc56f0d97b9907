"""One threshold on |W| over all layers, found exactly while only one layer is in memory.

The bits of a positive float32 number, read as an integer, have the order of the numbers. So the k-th smallest of all is
found in two passes of counting: the bucket of its upper 16 bits, then the lower 16 bits inside the bucket.

Shapes: O outputs · I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate

import torch
from torch import Tensor

HALF = 16  # bits
BUCKETS = 1 << HALF

Layer = Mapping[str, Tensor]


def smallest_per_matrix(read: Callable[[int], Layer], num_layers: int, num: int) -> list[dict[str, int]]:
    """How many of the ``num`` smallest |W| of all layers are in each matrix: one threshold, as counts.

    Weights equal to the threshold are shared out among matrices in proportion.

    Args:
        read: projections of a layer by name.
        num_layers: layers there are.
        num: how many of the smallest, over all of them.
    """
    if num == 0:
        return [dict.fromkeys(read(index), 0) for index in range(num_layers)]
    threshold = _kth_smallest([*range(num_layers)], read, num)
    below, equal = {}, {}
    for index in range(num_layers):
        for name, weight_OI in read(index).items():
            bits = _bits(weight_OI)
            below[index, name], equal[index, name] = int((bits < threshold).sum()), int((bits == threshold).sum())
    left, ties = num - sum(below.values()), sum(equal.values())
    ends = [left * passed // ties for passed in accumulate(equal.values())]
    counts: list[dict[str, int]] = [{} for _ in range(num_layers)]
    for (index, name), start, end in zip(below, [0, *ends], ends, strict=False):
        counts[index][name] = below[index, name] + end - start
    return counts


def _kth_smallest(layers: list[int], read: Callable[[int], Layer], num: int) -> int:
    """The bits of the ``num``-th smallest |W|."""
    upper_counts, lower_counts = torch.zeros(BUCKETS, dtype=torch.int64), torch.zeros(BUCKETS, dtype=torch.int64)
    for index in layers:
        for weight_OI in read(index).values():
            upper_counts += torch.bincount(_bits(weight_OI) >> HALF, minlength=BUCKETS)
    upper, before = _bucket(upper_counts, num)
    for index in layers:
        for weight_OI in read(index).values():
            bits = _bits(weight_OI)
            lower_counts += torch.bincount(bits[bits >> HALF == upper] % BUCKETS, minlength=BUCKETS)
    lower, _ = _bucket(lower_counts, num - before)
    return upper * BUCKETS + lower


def _bits(weight_OI: Tensor) -> Tensor:
    return weight_OI.abs().float().flatten().view(torch.int32)


def _bucket(counts: Tensor, num: int) -> tuple[int, int]:
    """The bucket that holds the ``num``-th, and how many are in those before it."""
    passed = counts.cumsum(0)
    bucket = int((passed < num).sum())
    return bucket, int(passed[bucket] - counts[bucket])
