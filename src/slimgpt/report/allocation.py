"""Prints the allocation that a search's curves give at one size or speed."""

from __future__ import annotations

from rich.table import Table

from slimgpt.arch.family import ATTENTION, FFN
from slimgpt.report.console import attention_units, out
from slimgpt.report.latency import latency_line
from slimgpt.search import Answer, removed_params


def print_allocation(found: Answer) -> None:
    """What each layer keeps by a search's curves, and what it is predicted to cost."""
    curves, layers = found.curves, found.layers
    table = Table(title=f"Allocation for {curves.model}", title_justify="left")
    for column in ("layer", "attention units", "FFN width", "attention loss", "FFN loss"):
        table.add_column(column, justify="right")
    for index, (layer, keep) in enumerate(zip(curves.layers, layers, strict=True)):
        attention, ffn = layer[ATTENTION], layer[FFN]
        losses = (attention.at(keep.attention, keep.queries), ffn.at(keep.ffn))
        widths = f"{ffn.have.num_units} → {keep.ffn}"
        table.add_row(str(index), attention_units(attention.have, keep), widths, *(f"{loss:.4f}" for loss in losses))
    out.print(table)
    gone = removed_params(curves, layers)
    out.print(
        f"{curves.num_params:,} → {curves.num_params - gone:,} parameters: {gone / curves.num_params:.2%} removed "
        f"(asked: {found.asked}). Sites one by one would cost {found.loss:.3f} nats a token together; together they "
        "cost more."
    )
    if found.latency is not None:
        out.print(latency_line(found.latency))
