"""The journal of a run: one finished layer, one shard, one record.

A record is written after its shard and carries the shard's hash, and every file appears under its name only when it is
whole and on disk. So whatever moment a run dies at, the journal holds a number of finished layers and nothing that
looks finished but is not. It lies in the working folder of a :class:`~slimgpt.output.place.Place`, which one run at a
time holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from slimgpt.errors import OutputError
from slimgpt.machine.atomic import write_json
from slimgpt.machine.folder_lock import clear
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.output.place import JOURNAL as HEADER
from slimgpt.output.place import Place


class Journal:
    """Finished layers of one run, in a folder.

    Args:
        folder: where shards and records lie.
        fingerprint: what must be equal for a run to be the same run.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self._folder = folder
        self.fingerprint = dict(fingerprint)

    def begin(self, resume: bool) -> None:
        """Begin in the folder, or go on with what is there.

        Raises:
            OutputError: an unfinished run is there and ``resume`` is off, or it is another run (the difference is
                named).
        """
        header = self._folder / HEADER
        if not header.is_file():
            self.discard()  # layers whose header is gone belong to a run that was being dropped
            write_json(header, self.fingerprint)
        elif not resume:
            raise OutputError(
                f"an unfinished run is in {self._folder}: continue it with --resume, or drop it with --force."
            )
        else:
            _check_same(header, self.fingerprint)

    def discard(self) -> None:
        """Forget the run: its header first, without which nothing else counts."""
        (self._folder / HEADER).unlink(missing_ok=True)
        clear(self._folder)

    def shard(self, index: int) -> Path:
        """Where the weights of layer ``index`` lie."""
        return self._folder / f"layer-{index:05d}.safetensors"

    def record(self, index: int) -> dict[str, Any] | None:
        """The record of a finished layer, or None if it is not finished or does not match its shard."""
        path = self.shard(index).with_suffix(".json")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            intact = record["sha256"] == _sha256(self.shard(index))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if intact else None

    def weights(self, index: int) -> dict[str, Tensor]:
        """The weights of a finished layer, by their names inside the layer."""
        return load_file(self.shard(index))

    def write(self, index: int, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Any]:
        """Record a finished layer: first its shard, then, with the shard's hash, its record."""
        write_tensors(self.shard(index), weights)
        whole = {**record, "sha256": _sha256(self.shard(index))}
        write_json(self.shard(index).with_suffix(".json"), whole)
        return whole


def take_up(
    journal: Journal, place: Place, force: bool, resume: bool, finished: Callable[[], dict[str, Any] | None]
) -> dict[str, Any] | None:
    """Hold the place and open the journal; or drop it, and return the record, where the run to resume is ``finished``.

    Raises:
        OutputError: another run is at work there, or has left what this one may not take up or replace.
    """
    place.hold(force, resume)
    try:
        record = finished() if resume else None
        if record is not None or (force and not resume):
            journal.discard()
        if record is None:
            place.refuse_standing(force)  # --resume alone does not replace another output
            journal.begin(resume)
    except BaseException:  # whoever catches it may well try again
        place.close()
        raise
    return record


def _check_same(header: Path, fingerprint: Mapping[str, Any]) -> None:
    try:
        found = dict(json.loads(header.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OutputError(f"{header} is damaged ({error}): start anew with --force.") from error
    for key in sorted({*found, *fingerprint}):
        if found.get(key) != fingerprint.get(key):
            raise OutputError(
                f"{header.parent} holds another run: {key} was {found.get(key)!r} and is now {fingerprint.get(key)!r}. "
                "Give the same options to resume, or start anew with --force."
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
