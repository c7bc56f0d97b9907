"""The record that every output carries, and the version of its form."""

from __future__ import annotations

from pathlib import Path

from slimgpt.errors import ModelError, last_line, shown
from slimgpt.machine.json_files import read_object

RECORD = "slimgpt.json"
SCHEMA = 2


def check_schema(folder: Path) -> None:
    """Refuse a checkpoint made by a later slimgpt, whose layout this one may not know.

    Raises:
        ModelError: its schema is newer than ours, or the record cannot be read.
    """
    record = folder / RECORD
    if not record.is_file():
        return
    try:
        schema = int(read_object(record)["schema"])
    except (OSError, OverflowError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{record} is damaged ({last_line(error)}): copy it again, or remove it.") from error
    if schema > SCHEMA:
        raise ModelError(
            f"{folder} was made by a newer slimgpt (schema {shown(schema)}; this one knows up to {SCHEMA}): "
            "pip install --upgrade slimgpt."
        )
