"""Damage to what a run keeps, and what may come of it: what an undisturbed run leaves, or a refusal in one line.

A *world* is a folder that holds everything a run writes: OUT, its working folder, caches. A run is stopped, its world
put aside, and brought back with one file damaged as often as there are files and kinds of damage; then it goes on.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slimgpt.errors import DamageWarning, SlimGPTError

COSTS = {"cost", "seconds", "cpu_seconds", "resume", "date", "sha256"}
COSTS |= {"planned_host_bytes", "peak_host_bytes", "peak_device_bytes"}
"""What differs between two runs that are the same; the hash of a record that holds such things does, too."""

Damage = Callable[[bytes, bytes], "bytes | None"]
"""What becomes of a file, given its bytes and those of another run's file like it; None removes it."""


def flipped(place: float) -> Damage:
    def flip(content: bytes, other: bytes) -> bytes:
        index = int(place * (len(content) - 1))
        return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :] if content else b"\x01"

    return flip


KINDS: Mapping[str, Damage] = {
    "first bit": flipped(0),
    "early bit": flipped(0.3),
    "late bit": flipped(0.8),
    "last bit": flipped(1),
    "half": lambda content, other: content[: len(content) // 2],
    "empty": lambda content, other: b"",
    "gone": lambda content, other: None,
    "swapped": lambda content, other: other,
}


@dataclass
class Outcome:
    """What became of a run that went on.

    Attributes:
        files: what it left, by name, without costs; None where it was refused.
        refusal: the message, if it was.
        said: what it said of damage.
    """

    files: dict[str, Any] | None = None
    refusal: str = ""
    said: list[str] = field(default_factory=list)


class World:
    """A folder whose runs are stopped, damaged, and go on.

    Args:
        folder: holds all that the runs write; it is emptied again and again.
        run: works in there; it is told whether to resume.
        results: what an undisturbed run leaves and every other one has to leave as well.
    """

    def __init__(self, folder: Path, run: Callable[[bool], None], results: Collection[str] = ("out",)) -> None:
        self.folder = folder
        self._run = run
        self._results = results

    def undisturbed(self) -> dict[str, Any]:
        self._clear()
        self._run(False)
        return left_in(self.folder, self._results)

    def stopped(self, aside: Path) -> bool:
        """Let a run begin, and put its world aside if it was interrupted, as it should be."""
        self._clear()
        try:
            self._run(False)
        except KeyboardInterrupt:
            shutil.copytree(self.folder, aside)
            return True
        return False

    def goes_on(self, aside: Path, file: Path, content: bytes | None) -> Outcome:
        """Let a run go on from a world that was put aside, with a file that holds something else."""
        self._clear()
        shutil.copytree(aside, self.folder, dirs_exist_ok=True)
        (self.folder / file).unlink()
        if content is not None:
            (self.folder / file).write_bytes(content)
        outcome = Outcome()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DamageWarning)
            try:
                self._run(True)
                outcome.files = left_in(self.folder, self._results)
            except SlimGPTError as error:
                outcome.refusal = str(error)
        outcome.said = [str(one.message) for one in caught if issubclass(one.category, DamageWarning)]
        return outcome

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()


@contextmanager
def interrupted_at(owner: Any, name: str, call: int = 1) -> Iterator[None]:
    """Inside, Ctrl-C is pressed when ``owner.name`` is called for this time."""
    original, counted = getattr(owner, name), iter(range(1, call + 1))

    def stop(*args: Any, **kwargs: Any) -> Any:
        if next(counted, None) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stop)
        yield


def one_of_each_kind(files: Sequence[Path]) -> list[Path]:
    """The last."""
    return sorted({kind_of(file): file for file in files}.values())


def in_turn(files: Sequence[Path], each: int = 2, shift: int = 0) -> Iterator[tuple[Path, str]]:
    """Every file with so many kinds of damage, so that each kind meets about as many."""
    kinds = list(KINDS)
    for number, file in enumerate(files, shift):
        yield from ((file, kinds[(number + 5 * step) % len(kinds)]) for step in range(each))


def check(
    world: World,
    aside: Path,
    others: Path,
    expected: Mapping[str, Any],
    cases: Iterator[tuple[Path, str]],
    may_be_refused: Collection[str] = (),
) -> list[Outcome]:
    """Let a run go on from ``aside`` with each damage, and see that it ends as it has to.

    ``others`` is the world of another run, whose files are swapped for this one's; ``may_be_refused`` are kinds of
    files, as :func:`kind_of` names them.
    """
    outcomes = []
    for file, kind in cases:
        content = (aside / file).read_bytes()
        damaged = KINDS[kind](content, like(file, others))
        outcome = world.goes_on(aside, file, damaged)
        what = f"{file}, {kind}: {outcome.refusal or outcome.said}"
        if outcome.files is None:
            assert kind_of(file) in may_be_refused, what
            assert "\n" not in outcome.refusal, what
        else:
            assert outcome.files.keys() == expected.keys(), what
            assert [name for name in expected if outcome.files[name] != expected[name]] == [], what
        outcomes.append(outcome)
    return outcomes


def files_below(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def kind_of(path: Path) -> str:
    """Files of one kind differ in numbers and hashes."""
    return re.sub(r"[0-9a-f]{10,}|\d+", "#", path.as_posix())


def like(file: Path, folder: Path) -> bytes:
    """The bytes of another run's file of this name, or at least of this kind."""
    same = [path for path in files_below(folder) if kind_of(path) == kind_of(file)]
    chosen = file if file in same else same[0] if same else None
    return b"another run's" if chosen is None else (folder / chosen).read_bytes()


def left_in(folder: Path, results: Collection[str]) -> dict[str, Any]:
    """Results of a run that lie in a folder, by the names of files, without costs."""
    found = [path for path in files_below(folder) if path.parts[0] in results]
    return {str(path): _comparable(folder / path) for path in found}


def _comparable(path: Path) -> Any:
    """The bytes of a file; of JSON and of tables what they say, but for costs."""
    if path.suffix == ".json":
        return without_costs(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix in (".csv", ".parquet"):
        from slimgpt.studies import table  # needs pyarrow

        return without_costs(table.read(path).to_pydict())
    return path.read_bytes()


def without_costs(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: without_costs(value) for key, value in content.items() if key not in COSTS}
    if isinstance(content, str):  # a cell's commands work in a folder with the study's number of process
        return re.sub(r"\.partial-\d+", ".partial", content)
    return [without_costs(value) for value in content] if isinstance(content, list) else content
