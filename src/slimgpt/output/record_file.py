"""The record that lies in every output, ``slimgpt.json``: written with its card, found again, handed on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.machine import atomic
from slimgpt.machine.json_files import read_object
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.schema import RECORD
from slimgpt.output import measurements


def finished_record(out: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of ``out`` if the very same run has made it, and died before it could say so."""
    record = record_of(out)
    return record if record is not None and record.get("fingerprint") == fingerprint else None


def record_of(folder: Path) -> dict[str, Any] | None:
    """The record of a folder that slimgpt made; None where there is none that can be read."""
    try:
        return read_object(folder / RECORD)
    except (OSError, ValueError):
        return None


def provenance(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What a record says of where the model came from: its name, its family, and its own record if it has one."""
    whole: dict[str, Any] = {"source": checkpoint.source, "family": checkpoint.family.model_type}
    stored = record_of(checkpoint.path)
    return whole if stored is None else {**whole, "before": stored}


def write(folder: Path, whole: Mapping[str, Any]) -> None:
    """Write the record, and the model card made from it and from what was measured."""
    atomic.write_json(folder / RECORD, whole)
    measurements.renew_card(folder)
