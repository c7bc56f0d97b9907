"""What was measured about a run afterwards: JSON files in the folder ``measured`` of its output, and its model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.config.paths import path_of
from slimgpt.errors import ModelError, last_line
from slimgpt.machine import atomic
from slimgpt.machine.json_files import read_object
from slimgpt.model.schema import RECORD
from slimgpt.output.card import model_card

FOLDER = "measured"
KINDS = ("eval", "compare", "bench")
CARD = "README.md"


def require_run(folder: str) -> Path:
    """The folder of a run, which is where measurements can be kept.

    Raises:
        ModelError: it is none of ours, or its record or what is there already is damaged.
    """
    path = path_of(folder, "model")
    if not (path / RECORD).is_file():
        raise ModelError(
            f"{folder} holds no {RECORD}, so it is not the folder of a run of slimgpt, and measurements cannot be kept "
            "there: write them to a file with --json FILE."
        )
    card_of(path)
    return path


def check_record(folder: Path) -> None:
    """Refuse, before any work, a record that a command would add to and make a card of.

    Raises:
        ModelError: it is there and damaged.
    """
    if (folder / RECORD).is_file():
        card_of(folder)


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
    atomic.write_text(folder / CARD, card_of(folder))


def card_of(folder: Path) -> str:
    """The model card of a run.

    Raises:
        ModelError: its record or a measurement is damaged.
    """
    record, measured = _read_json(folder / RECORD), read(folder)
    try:
        return model_card(record, measured)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder}: {RECORD}, or a file in {FOLDER}, is damaged ({last_line(error)}): copy it again, or remove it."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({last_line(error)}): remove it, and measure again.") from error
