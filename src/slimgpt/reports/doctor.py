"""What ``slimgpt doctor`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from slimgpt.reports.loudness import out
from slimgpt.reports.memory import mebibytes


def print_doctor(found: Mapping[str, Any]) -> None:
    """Versions, devices, memory, disk; then what each extra lacks."""
    table = Table(title="This machine", title_justify="left")
    table.add_column("")
    table.add_column("found")
    for name, version in found["versions"].items():
        table.add_row(name, version)
    table.add_row("system", found["system"])
    for device in found["devices"]:
        memory = f", {mebibytes(device['memory'])}" if device["memory"] else ""
        table.add_row(device["device"], f"{device['name']}{memory}, computes in {device['computes_in']}")
    memory = found["memory"]
    table.add_row("memory", f"{mebibytes(memory['free'])} free of {mebibytes(memory['total'])}")
    for name, place in found["disk"].items():
        table.add_row(f"disk, {name}", f"{mebibytes(place['free'])} free at {place['path']}")
    out.print(table)
    extras = Table(title="Extras", title_justify="left")
    for column in ("extra", "gives", "libraries"):
        extras.add_column(column)
    for extra, content in found["extras"].items():
        extras.add_row(extra, content["gives"], _libraries(extra, content["libraries"]))
    out.print(extras)


def _libraries(extra: str, libraries: Mapping[str, str | None]) -> str:
    missing = [name for name, version in libraries.items() if version is None]
    if missing:
        return f"lacks {', '.join(missing)}: pip install 'slimgpt[{extra}]'"
    return ", ".join(f"{name} {version}" for name, version in libraries.items())
