"""What was measured about a run afterwards: JSON files in the folder ``measured`` of its output, and its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.errors import ModelError
from slimgpt.machine import atomic
from slimgpt.model.schema import RECORD
from slimgpt.output.card import model_card

FOLDER = "measured"
KINDS = ("eval", "compare", "bench")
CARD = "README.md"


def require_run(folder: str) -> Path:
    """The folder of a run, which is where measurements can be kept.

    Raises:
        ModelError: it is none of ours.
    """
    path = Path(folder).expanduser()
    if not (path / RECORD).is_file():
        raise ModelError(
            f"{folder} holds no {RECORD}, so it is not the folder of a run of slimgpt, and measurements cannot be kept "
            "there: write them to a file with --json FILE."
        )
    return path


def read(folder: Path) -> dict[str, Any]:
    """What was measured about a run, by kind: eval, compare, bench.

    Raises:
        ModelError: a file is damaged.
    """
    return {kind: _read_json(path) for kind in KINDS if (path := folder / FOLDER / f"{kind}.json").is_file()}


def keep(folder: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write one kind of measurement and renew the model card."""
    (folder / FOLDER).mkdir(exist_ok=True)
    atomic.write_json(folder / FOLDER / f"{kind}.json", dict(content))
    renew_card(folder)


def renew_card(folder: Path) -> None:
    """Write the model card anew from the run's record and all that was measured about it."""
    atomic.write_text(folder / CARD, model_card(_read_json(folder / RECORD), read(folder)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}): remove it, and measure again.") from error
