"""Every command that writes, small enough for a test: its arguments, where it writes, what it may replace."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import run_folders
import study_shop
import tiny_llama

from slimgpt import prune

CALIBRATION = ["--calibration=builtin", "--samples=4", "--seqlen=32"]
TRAINING = ["--seqlen=32", "--batch-size=8", "--warmup=1", "--max-steps=2", "--eval-every=1", "--keep=last"]


BRIEFLY = ["--prompt-tokens=8", "--new-tokens=2", "--repeats=1", "--warmup=0"]


class Inputs:
    """What commands read, made once: a model, a run, a search, texts."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny_llama.save_model(folder / "model")
        self.search = folder / "search"
        self.run = prune(tiny_llama.prune_config(self.model, folder / "run", search_cache=str(self.search))).path
        self.report = run_folders.save(folder / "bare", slimgpt=run_folders.record(0.3))
        self.text = folder / "text.txt"
        self.text.write_text("some text to read " * 40)
        self.data = folder / "data.jsonl"
        self.data.write_text("".join(json.dumps({"text": f"line {i} of some text"}) + "\n" for i in range(200)))
        self.recipe = study_shop.write_recipe(folder)


@dataclass(frozen=True)
class Writer:
    """A command.

    Attributes:
        arguments: all that it is given.
        out: the name of what it makes.
        own: makes, at a path, what the command may replace with --force; None where it may replace nothing.
        keeps: the flags that go on with an unfinished run; None where there is nothing to go on with.
        limit: bytes a file may have, so that the output does not find room.
    """

    arguments: Callable[[Inputs, Path], list[object]]
    out: str
    own: Callable[[Path], object] | None = None
    keeps: tuple[str, ...] | None = None
    limit: int = 20_000

    def command(self, inputs: Inputs, out: Path, *flags: str) -> list[str]:
        """All arguments."""
        return [*map(str, self.arguments(inputs, out)), *flags]


def _evaluated(given: Inputs) -> list[object]:
    return ["--text", given.text, "--seqlen=32", "--max-tokens=128"]


def _own_folder(path: Path) -> None:
    path.mkdir()
    (path / "slimgpt.json").write_text("{}")


WRITERS = {
    "prune": Writer(
        lambda given, out: ["prune", given.model, out, *CALIBRATION, "--ratio=0.2", "--round-to=1"],
        "out",
        _own_folder,
        keeps=("--resume",),
    ),
    "sparsify": Writer(lambda given, out: ["sparsify", given.model, out, "--method=magnitude"], "out", _own_folder),
    "drop": Writer(lambda given, out: ["drop", given.model, out, "--layers=1", *CALIBRATION], "out", _own_folder),
    "trim": Writer(
        lambda given, out: ["trim", given.model, out, "--text", given.text, "--keep=258"], "out", _own_folder
    ),
    "recover": Writer(
        lambda given, out: ["recover", given.run, out, "--data", given.data, *TRAINING],
        "out",
        _own_folder,
        keeps=("--resume",),
    ),
    "export padded": Writer(lambda given, out: ["export", given.run, out, "--format=padded"], "out", _own_folder),
    "export gguf": Writer(
        lambda given, out: ["export", given.run, out, "--format=gguf"],
        "out.gguf",
        lambda path: path.write_bytes(b"GGUF older"),
    ),
    "eval": Writer(lambda given, out: ["eval", given.model, *_evaluated(given), "--json", out], "out.json", limit=500),
    "eval --against": Writer(
        lambda given, out: ["eval", given.run, "--against", given.model, *_evaluated(given), "--compare-json", out],
        "out.json",
        limit=500,
    ),
    "inspect": Writer(lambda given, out: ["inspect", given.model, "--json", out], "out.json", limit=500),
    "bench": Writer(lambda given, out: ["bench", given.model, *BRIEFLY, "--json", out], "out.json", limit=500),
    "search": Writer(
        lambda given, out: ["search", given.search, "--ratio=0.3", "--round-to=1", "--out", out], "out.yaml", limit=50
    ),
    "report": Writer(
        lambda given, out: ["report", given.report, "--out", out], "out.html", lambda path: path.write_text("older")
    ),
    "report --figures": Writer(
        lambda given, out: ["report", given.report, "--out", out.with_name("page.html"), "--figures", out], "out"
    ),
    "study": Writer(lambda given, out: ["study", given.recipe, out], "out", keeps=()),
}


def _folder_of_others(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def _link_to_a_folder(path: Path) -> None:
    _folder_of_others(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # a stand-in for what no test may touch
    except PermissionError:
        pytest.skip("making a device file is not permitted here")


STANDING: dict[str, Callable[[Path], object]] = {
    "dangling link": lambda path: path.symlink_to(path.with_name("nowhere")),
    "link to a folder": _link_to_a_folder,
    "pipe": os.mkfifo,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "device": _device,
    "file": lambda path: path.write_text("mine"),
    "folder": _folder_of_others,
}
"""What may stand at OUT and is not to be replaced, whatever the flags."""


def look(folder: Path) -> dict[str, object]:
    """All that lies in a folder, at any depth, without touching it."""
    return {str(path.relative_to(folder)): _described(path) for path in sorted(folder.rglob("*"))}


def _described(path: Path) -> object:
    found = os.lstat(path)
    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else None
    return stat.S_IFMT(found.st_mode), found.st_ino, found.st_rdev, content


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Inside, no file grows beyond this: the nearest thing to a full disk that needs no disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
