"""A file that a command is asked to write beside what it prints: refused before work, there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimgpt.errors import OutputError
from slimgpt.machine import atomic
from slimgpt.output.place import Place
from slimgpt.output.standing import NEW_FILE, Kind


class SingleFile:
    """Writes the file, once; without a place it writes nothing."""

    def __init__(self, place: Place | None) -> None:
        self._place = place

    def write_text(self, text: str) -> None:
        """Write a text."""
        if self._place is not None:
            atomic.write_text(self._place.finished, text)
            self._place.publish()

    def write_json(self, content: Any) -> None:
        """Write JSON."""
        if self._place is not None:
            atomic.write_json(self._place.finished, content)
            self._place.publish()


@contextmanager
def single_file(
    path: str | None, option: str = "--json", kind: Kind = NEW_FILE, force: bool = False
) -> Iterator[SingleFile]:
    """Hold the place of a file while the command works; None is no file.

    Raises:
        OutputError: something stands there, another run is about to write it, or there is no folder for it.
    """
    if path is None:
        yield SingleFile(None)
        return
    place = Place(path, kind, option)
    if not place.out.parent.is_dir():
        raise OutputError(f"{option} {path} cannot be written: there is no folder {Path(path).parent}. Make it first.")
    place.check(None, None, force)
    with place.work(force):
        yield SingleFile(place)
