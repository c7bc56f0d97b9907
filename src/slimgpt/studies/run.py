"""Runs cells: each a chain of commands in a folder of its own, which gets its name when its record is in it.

A cell works in ``cells/ID.partial-PID``. So whatever moment a study dies at, a folder ``cells/ID`` is a finished cell,
if it is as its record vouches, and all else is run anew. A command that outlives its study writes into a folder that
nobody looks at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from slimgpt._version import __version__
from slimgpt.config.step import Step
from slimgpt.errors import DamagedError, OutputError, UnsealedError
from slimgpt.machine.seals import FILES, all_hashes, seal, unseal, warn
from slimgpt.studies.collect import collected
from slimgpt.studies.energy import EnergyMeter

RECORD = "cell.json"
KIND, SCHEMA = "study-cell", 1
DONE, FAILED = "done", "failed"
LAST_LINES = 6  # of what a failed command says
NAMED_ERROR = "slimgpt: error:"
WEIGHTS = (".safetensors", ".gguf")

Command = Callable[[Sequence[str], Path], int]
"""Runs ``slimgpt`` with the given arguments, writes what it says to the given file, and gives its exit status."""


@dataclass(frozen=True)
class Work:
    """All that running a cell takes, on this machine or another.

    Attributes:
        identity: of the cell.
        about: the cell and its settings, for the record.
        chain: maps a folder to the commands that work in it.
        cells: the folder of all cells.
        keep_models: keep weights when everything is measured.
    """

    identity: str
    about: Mapping[str, Any]
    chain: Callable[[Path], Sequence[Step]]
    cells: Path
    keep_models: bool = False


def slimgpt(arguments: Sequence[str], log: Path) -> int:
    """Run one command in a process of its own."""
    with log.open("w", encoding="utf-8") as said:
        command = [sys.executable, "-m", "slimgpt", *arguments]
        return subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode


def finished(cells: Path, identity: str, keep_models: bool) -> dict[str, Any] | None:
    """The record of a cell that has run; None if it has not, or if it is damaged.

    Weights that an earlier run has kept are looked at where they are to be kept; else whoever likes may remove them.

    Raises:
        OutputError: an older slimgpt ran it.
    """
    try:
        record = unseal(cells / identity / RECORD, identity, lambda name: keep_models or not name.endswith(WEIGHTS))
    except UnsealedError as error:
        raise OutputError(f"{error}: choose another OUT, or remove this cell's folder, and it is run again.") from error
    except DamagedError as error:
        warn(f"{error}: the cell is run again.")
        return None
    if record is not None:
        record.pop(FILES, None)
    return record


def run_cell(work: Work, command: Command = slimgpt) -> dict[str, Any]:
    """Run a cell's commands until one fails; its record, which is on disk when this returns."""
    folder = work.cells / f"{work.identity}.partial-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ran: list[dict[str, Any]] = []
    error = None
    for step in work.chain(folder):
        ran.append(_run(step, folder / f"{len(ran)}.log", command))
        if ran[-1]["status"] != 0:
            error = {"step": step.name, "message": last_lines(folder / f"{len(ran) - 1}.log")}
            break
    record = {
        "kind": KIND,
        "schema": SCHEMA,
        "id": work.identity,
        **work.about,
        "status": FAILED if error else DONE,
        "error": error,
        "steps": ran,
        "measured": collected(folder, Path(work.about["settings"]["model"]["path"]).expanduser()),
        "slimgpt": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if not work.keep_models:
        drop_weights(folder)
    seal(folder / RECORD, record, work.identity, all_hashes(folder))
    _publish(folder, work.cells / work.identity)
    return record


def _run(step: Step, log: Path, command: Command) -> dict[str, Any]:
    meter, start = EnergyMeter(), time.monotonic()
    arguments = step.arguments()
    status = command(arguments, log)
    return {
        "name": step.name,
        "arguments": arguments,
        "status": status,
        "seconds": round(time.monotonic() - start, 3),
        "machine_joules": meter.joules(),
    }


def last_lines(log: Path) -> str:
    """The error that a command named, or the end of what it said where it died without one."""
    said = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in said if line][-LAST_LINES:]
    named = [place for place, line in enumerate(lines) if line.startswith(NAMED_ERROR)]
    return "\n".join(lines[named[-1] :] if named else lines)


def drop_weights(folder: Path) -> None:
    """Remove the models' weights and what unfinished runs have left; records, configurations and logs stay."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in WEIGHTS:
            path.unlink()


def _publish(folder: Path, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)  # a failed cell that was run again
    os.replace(folder, final)


def clear_unfinished(cells: Path) -> None:
    """Remove what a study that died has left."""
    for folder in cells.glob("*.partial-*"):
        shutil.rmtree(folder, ignore_errors=True)


def run_here(works: Sequence[Work], workers: int, command: Command = slimgpt) -> Iterator[dict[str, Any]]:
    """Records as cells finish, ``workers`` at a time. Every command is a process, so threads are enough."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = [pool.submit(run_cell, work, command) for work in works]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            for future in waiting:
                future.cancel()
