"""What a record says of every site: one form for all kinds of them, whichever version of slimgpt wrote it.

Since schema 2 a record holds a flat list, ``"sites"``; before, they lay in ``"layers"``, by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt.sites import part_of

PART_NAMES = {"ffn": "FFN"}
"""What people call parts whose names in records are not English."""


@dataclass(frozen=True)
class SiteRecord:
    """What went at one site.

    Attributes:
        layer: index of the decoder layer; None beside the layers.
        site: its name in the layer.
        num_units: units there were.
        kept: indices of those that stay.
        error: relative squared error of the consumer's output on the calibration text.
        unit: what people call one.
        members: parts of a unit that may go by themselves.
        kept_members: indices of those that stay, counted through all units; None where units are all of a piece.
    """

    layer: int | None
    site: str
    num_units: int
    kept: tuple[int, ...]
    error: float
    unit: str = "unit"
    members: int = 1
    kept_members: tuple[int, ...] | None = None

    @property
    def part(self) -> str:
        """The part of the layer."""
        return part_of(self.site)

    @property
    def pieces(self) -> tuple[int, ...]:
        """Members that stay; units where each is all of a piece."""
        return self.kept if self.kept_members is None else self.kept_members

    @property
    def lost_members(self) -> int:
        """How many members every kept unit has lost."""
        if self.kept_members is None or not self.kept:
            return 0
        return self.members - len(self.kept_members) // len(self.kept)

    def to_json(self) -> dict[str, Any]:
        """As the record holds it."""
        members = {} if self.kept_members is None else {"members": self.members, "kept_members": [*self.kept_members]}
        named = {"layer": self.layer, "site": self.site, "unit": self.unit, "num_units": self.num_units}
        return {**named, "kept": [*self.kept], **members, "error": self.error}


def is_pruned(record: Mapping[str, Any]) -> bool:
    """The record says what was pruned."""
    return "sites" in record or "layers" in record


def sites_of(record: Mapping[str, Any]) -> list[SiteRecord]:
    """Every site of a record, in the order in which they were pruned."""
    if "sites" in record:
        return [_site(entry["layer"], entry["site"], entry) for entry in record["sites"]]
    return [_site(layer["layer"], name, entry) for layer in record["layers"] for name, entry in layer["sites"].items()]


def _site(layer: int | None, name: str, entry: Mapping[str, Any]) -> SiteRecord:
    members = tuple(entry["kept_members"]) if "kept_members" in entry else None
    return SiteRecord(
        layer=layer,
        site=name,
        num_units=int(entry["num_units"]),
        kept=tuple(entry["kept"]),
        error=float(entry["error"]),
        unit=entry.get("unit") or ("channel" if part_of(name) == "ffn" else "unit"),
        members=int(entry.get("members", 1)),
        kept_members=members,
    )


def parts_of(sites: Iterable[SiteRecord]) -> list[str]:
    """The parts there are, in the order of their first sites."""
    return list(dict.fromkeys(site.part for site in sites))


def by_layer(sites: Sequence[SiteRecord]) -> dict[int | None, dict[str, list[SiteRecord]]]:
    """Layer -> part -> its sites (experts are several, else there is one)."""
    layers: dict[int | None, dict[str, list[SiteRecord]]] = {}
    for site in sites:
        layers.setdefault(site.layer, {}).setdefault(site.part, []).append(site)
    return layers


def part_name(part: str) -> str:
    """For people."""
    return PART_NAMES.get(part, part)


def units_name(part: str) -> str:
    """What a column of kept units is called."""
    return f"{part_name(part)} channels" if part in PART_NAMES else f"{part_name(part)} units"


def layer_rows(sites: Sequence[SiteRecord]) -> list[tuple[str, ...]]:
    """For a table: each layer's index, what its parts keep, and the relative errors that this costs."""
    parts = parts_of(sites)
    return [
        (
            "model" if layer is None else str(layer),
            *(_kept(found.get(p)) for p in parts),
            *(_error(found.get(p)) for p in parts),
        )
        for layer, found in by_layer(sites).items()
    ]


def _kept(sites: Sequence[SiteRecord] | None) -> str:
    """Experts keep equally many units each."""
    if not sites:
        return "–"
    first = sites[0]
    units = f"{len(first.kept)} of {first.num_units}"
    if lost := first.lost_members:
        units += f", {first.members - lost} of {first.members} queries in each"
    return units


def _error(sites: Sequence[SiteRecord] | None) -> str:
    """The mean over experts."""
    return f"{sum(site.error for site in sites) / len(sites):.4f}" if sites else "–"
