"""What every format answers before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slimgpt.proof import Witness


@dataclass(frozen=True)
class Plan:
    """An export that fits the model and has not been written yet.

    Attributes:
        num_bytes: its size on disk, about.
        folder: it is a folder rather than a file.
        notes: what people should know of it.
        write: writes it at a path that does not exist.
        witness: what the source says, where transformers opens the export too.
    """

    num_bytes: int
    folder: bool
    notes: tuple[str, ...]
    write: Callable[[Path], None]
    witness: Callable[[], Witness] | None = None
