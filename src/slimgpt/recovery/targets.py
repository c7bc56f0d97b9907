"""The dense model's predictions for every row, made once and kept on disk.

One safetensors file holds the targets of ``SHARD`` rows, and a record that is written after it vouches for it, so a run
that dies goes on behind the last one, and a later run with the same rows, teacher and temperature reads them all. The
folder's name says what they belong to.

Shapes: B rows · T tokens · P learned positions · K tokens kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from slimgpt.evaluation.predictions import Targets, targets_of
from slimgpt.machine.processes import Processes
from slimgpt.machine.seals import hashes, intact, seal
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.recovery.packing import Row, collate, learned, num_learned

ALGORITHM_VERSION = 1  # raise it whenever other targets than before would be kept
SHARD = 32  # rows in a file
BYTES_PER_TOKEN = 6  # float16 and int32

Predict = Callable[[Any, Sequence[Row]], list[Targets]]
"""A loaded teacher and rows -> their targets."""


class TargetStore:
    """The targets of all rows, read one row at a time.

    Args:
        folder: where the files are.
        num_rows: how many rows have targets, or will have.
    """

    def __init__(self, folder: Path, num_rows: int) -> None:
        self._folder = folder
        self.num_rows = num_rows

    def __getitem__(self, row: int) -> Targets:
        with safe_open(self._file(row // SHARD), framework="pt") as file:
            return Targets(*(file.get_tensor(f"{row}.{name}") for name in Targets._fields))

    def missing(self) -> list[int]:
        """Shards that are not there yet, or damaged."""
        return [shard for shard in range(-(-self.num_rows // SHARD)) if not self._is_whole(shard)]

    def rows_of(self, shard: int) -> range:
        """The rows of a shard."""
        return range(shard * SHARD, min((shard + 1) * SHARD, self.num_rows))

    def write(self, shard: int, targets: Sequence[Targets]) -> None:
        """Keep the targets of a shard's rows."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{row}.{name}": tensor.cpu().contiguous()
            for row, of_row in zip(self.rows_of(shard), targets, strict=True)
            for name, tensor in of_row._asdict().items()
        }
        file = self._file(shard)
        write_tensors(file, tensors)
        seal(file.with_suffix(".json"), {}, self._of(shard), hashes(self._folder, [file.name]))

    def _file(self, shard: int) -> Path:
        return self._folder / f"targets-{shard:06d}.safetensors"

    def _is_whole(self, shard: int) -> bool:
        record = self._file(shard).with_suffix(".json")
        return intact(record, self._of(shard), "the teacher reads its rows again") is not None

    def _of(self, shard: int) -> list[str | int]:
        return [self._folder.name, shard]


def open_store(folder: Path, teacher: str, rows: Sequence[Row], num_kept: int, temperature: float) -> TargetStore:
    """The store of these rows under ``folder``; ``teacher`` is what tells this teacher, as it runs, from others."""
    digest = hashlib.sha256(json.dumps([ALGORITHM_VERSION, teacher, num_kept, temperature]).encode())
    for row in rows:
        digest.update(json.dumps(row).encode())
    return TargetStore(folder / digest.hexdigest()[:32], len(rows))


def estimated_bytes(rows: Sequence[Row], num_kept: int) -> int:
    """What the store of these rows takes on disk."""
    return sum(map(num_learned, rows)) * (num_kept * BYTES_PER_TOKEN + 4)


def fill(
    store: TargetStore,
    rows: Sequence[Row],
    load: Callable[[], Any],
    predict: Predict,
    processes: Processes,
    progress: Callable[[int], None],
) -> None:
    """Let the teacher predict the rows whose targets are missing; it is loaded only if there are any.

    Several processes share the missing files.
    """
    missing = processes.from_leader(store.missing() if processes.leads else [])
    mine = missing[processes.rank :: processes.size]
    teacher = load() if mine else None
    for shard in mine:
        chosen = [rows[row] for row in store.rows_of(shard)]
        store.write(shard, predict(teacher, chosen))
        progress(sum(len(row.ids) for row in chosen))
    processes.meet()


@torch.inference_mode()
def predict(teacher: Any, rows: Sequence[Row], num_kept: int, temperature: float, batch_size: int) -> list[Targets]:
    """The targets of each row at its learned positions."""
    found: list[Targets] = []
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        batch = {name: tensor.to(teacher.device) for name, tensor in collate(chosen).items()}
        learned_BT = learned(batch.pop("labels"))
        targets = targets_of(teacher(**batch, use_cache=False).logits, learned_BT, num_kept, temperature)
        counts = learned_BT.sum(1).tolist()
        found += [Targets(*parts) for parts in zip(*(tensor.split(counts) for tensor in targets), strict=True)]
    return found
