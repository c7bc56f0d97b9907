"""The record that lies in every output, ``slimgpt.json``: its parts, written with its card, found again, handed on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from slimgpt.machine import atomic, devices, host
from slimgpt.machine.clock import Clock
from slimgpt.machine.json_files import read_object
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.schema import RECORD
from slimgpt.output import measurements
from slimgpt.output.place import Place


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


def sizes(before: int, after: int, bytes_after: int) -> dict[str, Any]:
    """What a record says of a model's parameters: how many there were and are, and the bytes of those that are."""
    return {"before": before, "after": after, "removed_ratio": 1 - after / before, "bytes_after": bytes_after}


def cost(clock: Clock, device: torch.device, planned_host_bytes: int | None = None) -> dict[str, Any]:
    """What a run took so far: seconds by stage, peaks of memory in bytes, and what had been announced."""
    announced = {} if planned_host_bytes is None else {"planned_host_bytes": planned_host_bytes}
    return {
        "seconds": {stage: round(seconds, 3) for stage, seconds in clock.seconds.items()},
        **announced,
        "peak_host_bytes": host.peak_host_bytes(),
        "peak_device_bytes": devices.peak_device_bytes(device),
        "device": devices.device_name(device),
    }


def publish(place: Place, whole: dict[str, Any]) -> dict[str, Any]:
    """Add the record, and the model card made from it, to a folder that is otherwise finished, and give it its name."""
    atomic.write_json(place.finished / RECORD, whole)
    measurements.renew_card(place.finished)
    place.publish()
    return whole
