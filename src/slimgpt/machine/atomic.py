"""Files that appear under their names only when they are whole and on disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

NUMBERS = re.compile(r"\[\n[\d\s,.eE+-]*\]")  # the line break is JSON's own: strings hold none


def write_text(path: Path, text: str) -> None:
    """Write a small text file so that it is there whole or not at all."""
    with scratch(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that it is there whole or not at all; lists of numbers stay on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_text(path, NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A file to fill: brought to disk, then under its name, then the name to disk, which is safe against power loss.

    A failure removes it: on a disk that is full, half a file is in the way of everything else.
    """
    unfinished = path.with_name(path.name + ".tmp")
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk."""
    with suppress(OSError) if path.is_dir() else nullcontext():  # not every file system can do it for a folder
        opened = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)  # Windows asks for the right to write
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
