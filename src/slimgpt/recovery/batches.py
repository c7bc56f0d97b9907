"""Rows as Trainer wants them: a data set, and batches with the teacher's targets beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slimgpt.evaluation.predictions import Targets
from slimgpt.recovery.packing import Row, collate
from slimgpt.recovery.targets import TargetStore

Item = tuple[Row, Targets | None]


class Rows(Dataset[Item]):
    """Rows, each with its targets where there is a teacher."""

    def __init__(self, rows: Sequence[Row], store: TargetStore | None = None) -> None:
        self._rows = rows
        self._store = store

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        return self._rows[index], self._store[index] if self._store is not None else None


def make_batch(items: Sequence[Item], length: int = 0) -> dict[str, Tensor]:
    """Collate rows, padded to ``length`` at least; their targets follow one another, in the order of the learned
    positions of the batch."""
    batch = collate([row for row, _ in items], length)
    targets = [of_row for _, of_row in items if of_row is not None]
    for name, parts in zip(Targets._fields, zip(*targets, strict=True), strict=False):
        batch[name] = torch.cat(parts)
    return batch


def take_targets(batch: dict[str, Tensor]) -> Targets | None:
    """Remove the targets from a batch, where it has them, and return them."""
    found = [batch.pop(name) for name in Targets._fields if name in batch]
    return Targets(*found) if found else None
