"""Trainer's checkpoints, sealed: which of them a run goes on from, and which have had their time.

Trainer writes a checkpoint as many files of many kinds. One more, written last, vouches for them all. A run goes on
from the last checkpoint that is whole, if the best one so far, which it may end with, is whole too.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from slimgpt.machine.seals import all_hashes, intact, seal
from slimgpt.recovery.job import Job

RECORD = "seal.json"


class Checkpoint(NamedTuple):
    """One that is whole.

    Attributes:
        folder: where.
        best: the one whose weights are the best so far; None where that does not matter.
        ended: training has come to its end with it.
    """

    folder: Path
    best: Path | None
    ended: bool


class Sealing(TrainerCallback):
    """Seals what all callbacks before it, and Trainer, have written; and removes what nobody needs any more."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint has been written."""
        self._job.processes.meet()  # each has written its own random state
        if not self._job.processes.leads:
            return
        folder = folder_of(self._job) / f"checkpoint-{state.global_step}"
        best = state.best_model_checkpoint if self._job.config.keep == "best" else None
        content = {"best": best, "ended": control.should_training_stop}
        seal(folder / RECORD, content, _of(self._job, folder), all_hashes(folder))
        _keep_only(self._job, {folder, Path(best or folder)})


def last(job: Job) -> Checkpoint | None:
    """The checkpoint to go on from; all that are cut short, damaged, or not needed for that are removed."""
    whole = {found.folder: found for folder in _all(job) if (found := _read(job, folder)) is not None}
    usable = [found for found in whole.values() if found.best is None or found.best in whole]
    chosen = usable[-1] if usable else None
    _keep_only(job, set() if chosen is None else {chosen.folder, chosen.best or chosen.folder})
    return chosen


def _read(job: Job, folder: Path) -> Checkpoint | None:
    again = "training goes on from the checkpoint before it, or starts anew"
    found = intact(folder / RECORD, _of(job, folder), again)
    if found is None:
        return None
    return Checkpoint(folder, Path(found["best"]) if found["best"] else None, found["ended"])


def _of(job: Job, folder: Path) -> list[Any]:
    """Trainer's state names the best checkpoint by its whole path, so a folder that was moved is another one."""
    return [job.journal.fingerprint, str(folder)]


def _keep_only(job: Job, wanted: set[Path]) -> None:
    """Remove the other checkpoints, their seals first, without which nothing else counts."""
    for folder in set(_all(job)) - wanted:
        (folder / RECORD).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _all(job: Job) -> list[Path]:
    """In the order in which they were written."""
    return sorted(folder_of(job).glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))


def folder_of(job: Job) -> Path:
    """Where Trainer keeps its checkpoints."""
    return job.place.partial / "training"
