"""The journal of a run: one finished layer, one shard, one record.

A record is written after its shard, which it vouches for, and every file appears under its name only when it is whole
and on disk. So whatever moment a run dies at, and whatever happens to its files before it goes on, the journal holds a
number of finished layers and nothing that looks finished but is not. It lies in the working folder of a
:class:`~slimgpt.output.place.Place`, which one run at a time holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from slimgpt.errors import DamagedError, OutputError
from slimgpt.machine.folder_lock import LOCK, clear
from slimgpt.machine.seals import hashes, intact, seal, unseal, warn
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
            if any(file.name != LOCK and file.suffix != ".tmp" for file in self._folder.iterdir()):
                warn(f"{header} is gone: nothing that lies beside it counts, and the run starts anew.")
            self.discard()  # layers whose header is gone may also belong to a run that was being dropped
            seal(header, self.fingerprint, HEADER)
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

    def shard(self, index: int | None) -> Path:
        """Where the weights of layer ``index`` lie; for None, of what is cut beside the layers."""
        return self._folder / ("beside.safetensors" if index is None else f"layer-{index:05d}.safetensors")

    def record(self, index: int | None) -> dict[str, Any] | None:
        """The record of a finished layer, or None if it is not finished, or damaged."""
        what = "what lies beside the layers" if index is None else f"layer {index}"
        return intact(self._record(index), self._of(index), f"{what} is pruned again")

    def weights(self, index: int | None) -> dict[str, Tensor]:
        """The weights of a finished layer, by their names inside the layer."""
        return load_file(self.shard(index))

    def write(self, index: int | None, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Record a finished layer: first its shard, then the record that vouches for it."""
        shard = self.shard(index)
        write_tensors(shard, weights)
        seal(self._record(index), record, self._of(index), hashes(self._folder, [shard.name]))

    def _record(self, index: int | None) -> Path:
        return self.shard(index).with_suffix(".json")

    def _of(self, index: int | None) -> list[Any]:
        """What tells a layer's record from those of other layers and other runs."""
        return [self.fingerprint, index]


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
        found = unseal(header, HEADER) or {}
    except DamagedError as error:
        raise OutputError(f"{error}: start anew with --force.") from error
    for key in sorted({*found, *fingerprint}):
        if found.get(key) != fingerprint.get(key):
            raise OutputError(
                f"{header.parent} holds another run: {key} was {found.get(key)!r} and is now {fingerprint.get(key)!r}. "
                "Give the same options to resume, or start anew with --force."
            )
