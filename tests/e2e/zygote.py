"""Runs of the command line that die at a chosen moment. A process that has imported everything forks a child for each,
so that a run costs tenths of a second.

Every call that changes the disk is a *moment*: it has a number and a label, and a run can be made to die right before
it, or, where it writes a file, when half the file is written.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class How:
    """What happens to a run.

    Attributes:
        die_at: number of the moment at which it gets ``signal``; None lets it live.
        torn: the moment is when half of the file is written.
        signal: what it dies of.
        file_limit: largest file that it may write.
        settings: constants of modules, ``{"slimgpt.output.place.SPARE_BYTES": 0}``.
    """

    die_at: int | None = None
    torn: bool = False
    signal: int = signal.SIGKILL
    file_limit: int | None = None
    settings: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a run: exit status (negative: the signal it died of), what it printed, and its moments."""

    status: int
    text: str
    moments: list[str]


class Zygote:
    """The process that forks; a context manager.

    Args:
        folder: for what it writes down.
        entry: ``module:function`` that a child calls with its arguments, and that gives its exit status.
    """

    def __init__(self, folder: Path, entry: str = "slimgpt.cli:main") -> None:
        self._folder = folder
        self._entry = entry

    def __enter__(self) -> Zygote:
        command = [sys.executable, __file__, str(self._folder), self._entry]
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}  # threads do not survive a fork
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *args: object) -> None:
        self._process.communicate()

    def run(self, arguments: list[str], how: How = How()) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([arguments, asdict(how)]), file=self._process.stdin, flush=True)
        return Outcome(**json.loads(self._process.stdout.readline()))


# --- in the process that forks ---------------------------------------------------------------------


class Moments:
    """Counts the calls that change the disk, writes their labels down, and ends the process at one of them."""

    def __init__(self, how: How, log: Path) -> None:
        self._how = how
        self._log = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        self._count = 0

    def watch(self, owner: Any, name: str, target: int | None = 0) -> None:
        """Make every call of ``owner.name`` a moment; ``target`` is the argument with the path that it changes."""
        call = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            path = None if target is None else _path(args[target])
            here = self._is_next(f"{name} {Path(path).name}" if path else name)
            if here and not self._how.torn:
                self._die()  # an interrupt ends the main thread's work; another thread goes on with its own
            result = call(*args, **kwargs)
            if here and self._how.torn:
                if path and os.path.isfile(path):
                    os.truncate(path, os.path.getsize(path) // 2)
                self._die()
            return result

        setattr(owner, name, watched)

    def _is_next(self, label: str) -> bool:
        os.write(self._log, (label + "\n").encode())
        self._count += 1
        return self._how.die_at == self._count - 1

    def _die(self) -> None:
        os.kill(os.getpid(), self._how.signal)


def _path(target: Any) -> str | None:
    return str(target) if isinstance(target, (str, os.PathLike)) else None


def serve(folder: Path, entry: str) -> None:
    import torch

    import slimgpt.pruning.driver
    import slimgpt.recovery
    import slimgpt.reports.console  # noqa: F401 - imported now, not in every child

    module, _, function = entry.partition(":")
    live = getattr(importlib.import_module(module), function)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are deaf to it
    torch.set_num_threads(1)
    for line in sys.stdin:
        arguments, how = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_live(live, arguments, How(**how), folder))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        moments = (folder / "moments").read_text().splitlines()
        print(json.dumps({"status": status, "text": (folder / "text").read_text(), "moments": moments}), flush=True)


def _live(live: Callable[[list[str]], int], arguments: list[str], how: How, folder: Path) -> int:
    """The child: the command line, or another entry, with its disk watched."""
    text = os.open(folder / "text", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(text, 1)
    os.dup2(text, 2)
    _set_up(how, Moments(how, folder / "moments"))
    try:
        status = live(arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _set_up(how: How, moments: Moments) -> None:
    import torch
    from peft import peft_model
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase, TrainerState, modeling_utils

    from slimgpt.machine import tensor_files

    moments.watch(os, "fsync", target=None)  # which file it is makes no difference to what a kill leaves
    for name in ("unlink", "rmdir"):
        moments.watch(os, name)
    for name in ("replace", "link"):
        moments.watch(os, name, target=1)
    moments.watch(shutil, "copyfile", target=1)
    moments.watch(tensor_files, "save_file", target=1)
    for library in (modeling_utils, peft_model):
        moments.watch(library, "safe_save_file", target=1)
    moments.watch(torch, "save", target=1)
    moments.watch(TrainerState, "save_to_json", target=1)
    moments.watch(Path, "write_text")
    for kind in (PretrainedConfig, GenerationConfig, PreTrainedTokenizerBase):
        moments.watch(kind, "save_pretrained", target=None)
    for place, value in how.settings.items():
        module, _, constant = place.rpartition(".")
        setattr(sys.modules[module], constant, value)
    if how.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (how.file_limit, how.file_limit))


def last_of_each(moments: list[str]) -> dict[str, int]:
    """Label without its layer's number -> number of the last such moment: one of each kind, as late as can be."""
    return {re.sub(r"\d+", "#", label): number for number, label in enumerate(moments)}


WRITES: tuple[str, ...] = ("save_file", "safe_save_file", "save ", "save_to_json", "write_text", "copyfile")
"""Moments that can be torn."""

if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
