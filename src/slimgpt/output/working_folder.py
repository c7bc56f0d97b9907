"""Outputs of commands that have nothing to resume: made beside OUT in one go, and then given their name.

Whatever goes wrong, nothing of them stays. Commands that take long enough to be resumed keep a journal instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimgpt.errors import OutputError
from slimgpt.machine.folder_lock import FolderLock
from slimgpt.output import place


def check(out: Path, model: Path, num_bytes: int, force: bool) -> None:
    """Refuse, before any work, an output that could not be written or would overwrite something.

    Raises:
        OutputError: OUT exists, is the model or inside it, its parent is not a folder, or the disk is too full.
    """
    place.recover(out)
    place.check_place(out, model, force)
    if out.is_file():
        raise OutputError(f"OUT {out} is a file: name a folder.")
    place.check_ours(out)
    partial = place.partial_folder(out)
    if partial.exists() and not force:
        raise OutputError(f"an unfinished run is in {partial}: finish it, or drop it with --force.")
    place.check_room(out, num_bytes)


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside OUT to work in, gone afterwards whatever happens."""
    folder = place.partial_folder(out)
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that died, and checked to be dispensable
    folder.mkdir(parents=True)
    with FolderLock(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
