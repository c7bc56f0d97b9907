"""Prints the allocation that a search's curves give at one size or speed."""

from __future__ import annotations

from rich.table import Table

from slimgpt.allocation.places import parts_of
from slimgpt.output.record_sites import part_name, units_name
from slimgpt.reports.console import kept_units, layer_label
from slimgpt.reports.latency import latency_line
from slimgpt.reports.loudness import out
from slimgpt.reports.memory import memory_line
from slimgpt.searching import SearchResult, removed_params


def print_allocation(found: SearchResult) -> None:
    """What each layer keeps by a search's curves, and what it is predicted to cost."""
    curves = found.curves
    table = Table(title=f"Allocation for {curves.model}", title_justify="left")
    parts = parts_of(curves.places)
    for column in ("layer", *map(units_name, parts), *(f"{part_name(part)} loss" for part in parts)):
        table.add_column(column, justify="right")
    for layer in dict.fromkeys(place.layer for place in curves.places):
        here = {curve.place.part: curve for curve in curves.curves if curve.place.layer == layer}
        units = (kept_units(here[part].place, found.kept) if part in here else "–" for part in parts)
        losses = (f"{here[p].at(found.kept[here[p].place.key]):.4f}" if p in here else "–" for p in parts)
        table.add_row(layer_label(layer), *units, *losses)
    out.print(table)
    gone = removed_params(curves, found.kept)
    out.print(
        f"{curves.num_params:,} → {curves.num_params - gone:,} parameters: {gone / curves.num_params:.2%} removed "
        f"(asked: {found.asked}). Sites one by one would cost {found.loss:.3f} nats a token together; together they "
        "cost more."
    )
    if found.latency is not None:
        out.print(latency_line(found.latency))
    if found.memory is not None:
        out.print(memory_line(found.memory))
