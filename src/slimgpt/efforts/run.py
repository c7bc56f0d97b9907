"""prune() with its effort: stage after stage, each kept with its hashes until the whole has its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from slimgpt.config import PruneConfig
from slimgpt.config.step import Step
from slimgpt.efforts.prepare import Job, config_of, prepare
from slimgpt.efforts.record import whole
from slimgpt.experts import remove_experts
from slimgpt.machine import atomic
from slimgpt.machine.folder_lock import remove
from slimgpt.machine.seals import all_hashes, intact, seal
from slimgpt.output import record_file
from slimgpt.pruning import driver
from slimgpt.pruning.observer import Observer, PruneResult
from slimgpt.recovery import recover
from slimgpt.streaming.observer import StreamObserver


def prune(config: PruneConfig, observer: Observer | StreamObserver | None = None) -> PruneResult:
    """Make a smaller model with as much work as ``config.effort`` says, and write the result atomically. A
    StreamObserver hears of it where whole experts go.

    Raises:
        SlimGPTError: something the user can mend; raised before any work wherever that is possible.
    """
    if config.experts is not None:
        made = remove_experts(config, observer if isinstance(observer, StreamObserver) else None)
        return PruneResult(made.path, made.record)
    assert not isinstance(observer, StreamObserver)
    if config.effort != "high":
        return driver.prune(config, observer)
    observer = observer or Observer()
    job = prepare(config, observer)
    with closing(job.place):
        record = job.finished or _carry_out(job, observer)
    return PruneResult(job.place.out, record)


def _carry_out(job: Job, observer: Observer) -> dict[str, Any]:
    """Run what is missing of the stages, and give the last one's folder the name of the whole."""
    observer.chained(job.steps)
    with job.place.full_disk_named(0):
        job.folder.mkdir(exist_ok=True)
        atomic.write_text(job.text_file, job.text)
        records = _finished(job)
        for number in range(len(records), len(job.steps)):
            observer.began(number)
            records.append(_run(job.steps[number], observer))
            _seal(job, number, records[-1])
        observer.writing()
        shutil.copytree(job.steps[-1].positional[1], job.place.finished, copy_function=_linked)
        return record_file.publish(job.place, whole(job, records))


def _run(step: Step, observer: Observer) -> dict[str, Any]:
    """One stage, from wherever it was; its record."""
    config = config_of(step, resume=True)
    if isinstance(config, PruneConfig):
        return driver.prune(config, observer).record
    return recover(config, observer.recovering()).record


def _finished(job: Job) -> list[dict[str, Any]]:
    """Records of the stages that an earlier run has finished. What follows one that is damaged is done again too."""
    records: list[dict[str, Any]] = []
    for number in range(len(job.steps)):
        again = f"stage {number + 1} and what follows it are done again"
        found = intact(_seal_file(job, number), _of(job, number), again)
        if found is None:
            break
        records.append(found["record"])
    for number in range(len(records), len(job.steps)):
        if _seal_file(job, number).exists():
            _seal_file(job, number).unlink()
            remove(_out(job, number))
    return records


def _seal(job: Job, number: int, record: Mapping[str, Any]) -> None:
    """Vouch for a finished stage."""
    out = _out(job, number)
    files = {f"{out.name}/{name}": digest for name, digest in all_hashes(out).items()}
    seal(_seal_file(job, number), {"record": record}, _of(job, number), files)


def _out(job: Job, number: int) -> Path:
    return Path(job.steps[number].positional[1])


def _seal_file(job: Job, number: int) -> Path:
    out = _out(job, number)
    return out.with_name(f"{out.name}.json")


def _of(job: Job, number: int) -> list[Any]:
    """What tells a stage from others, and from those of other runs."""
    return [job.journal.fingerprint, number]


def _linked(source: str, target: str) -> str:
    """The same file under a second name, where the disk can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
