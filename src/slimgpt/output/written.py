"""What every command that makes a model answers with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Written:
    """A finished folder.

    Attributes:
        path: where it is.
        record: all that is known of it: what ``slimgpt.json`` holds.
    """

    path: Path
    record: dict[str, Any]
