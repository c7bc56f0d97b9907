"""What records say of sites, in the shapes that tests look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def by_layer(record: Mapping[str, Any]) -> list[dict[str, dict[str, Any]]]:
    """Layer after layer, what is said of each site by its name."""
    layers: list[dict[str, dict[str, Any]]] = [{} for _ in record["sizes"]]
    for entry in record["sites"]:
        layers[entry["layer"]][entry["site"]] = entry
    return layers


def kept(record: Mapping[str, Any]) -> dict[tuple[int | None, str], list[int]]:
    """Layer and site -> the units that stay."""
    return {(entry["layer"], entry["site"]): entry["kept"] for entry in record["sites"]}


def widths(record: Mapping[str, Any]) -> list[int]:
    """How many FFN channels each layer keeps."""
    return [len(entry["kept"]) for entry in record["sites"] if entry["site"] == "ffn"]
