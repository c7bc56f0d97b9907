"""What ``slimgpt sparsify`` and ``slimgpt drop`` show while they work, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from slimgpt.reports.loudness import out, plans
from slimgpt.reports.memory import mebibytes, needs_lines
from slimgpt.reports.progress import Stages
from slimgpt.streaming.memory import Needs
from slimgpt.streaming.observer import StreamObserver


class StreamProgress(Stages, StreamObserver):
    """What shows how a run gets on whose text goes through layer after layer, and what it will need."""

    def planned(self, needs: Needs, device: object) -> None:
        """Print it."""
        plans.print(needs_lines(needs, device))


def print_sparsity(record: Mapping[str, Any]) -> None:
    """The zeros of every layer, and what they come to."""
    table = Table(title="Result", title_justify="left")
    for column in ("layer", "weights", "zeros", "sparsest projection", "densest"):
        table.add_column(column, justify="right")
    for layer in record["projections"]:
        matrices = layer["matrices"].values()
        shares = [matrix["sparsity"] for matrix in matrices]
        weights = sum(matrix["shape"][0] * matrix["shape"][1] for matrix in matrices)
        zeros = sum(matrix["zeros"] for matrix in matrices)
        cells = f"{weights:,}", f"{zeros / weights:.2%}", f"{max(shares):.2%}", f"{min(shares):.2%}"
        table.add_row(str(layer["layer"]), *cells)
    out.print(table)
    found, cost = record["sparsity"], record["cost"]
    out.print(
        f"{found['zeros']:,} of {found['projection_weights']:,} weights of projections are zero "
        f"({found['projections']:.2%}; {found['parameters']:.2%} of all parameters). Stored dense: "
        f"{mebibytes(record['parameters']['bytes_after'])}, as before, and no faster without sparse kernels. "
        f"{sum(cost['seconds'].values()):.0f} s, peak memory {mebibytes(cost['peak_host_bytes'])}."
    )
    _print_beginning(record)


def print_dropped(record: Mapping[str, Any]) -> None:
    """The layers that went, and by which scores."""
    angular = record["options"]["method"] == "angular"
    title = "Angle from input to output of each run, of π" if angular else "Influence of each layer"
    table = Table(title=title, title_justify="left")
    table.add_column("first layer" if angular else "layer", justify="right")
    table.add_column("score", justify="right")
    table.add_column("")
    chosen = record["dropped"][:1] if angular else record["dropped"]
    for index, score in enumerate(record["scores"]):
        table.add_row(str(index), f"{score:.4f}", "goes" if index in chosen else "")
    out.print(table)
    sizes, cost = record["parameters"], record["cost"]
    out.print(
        f"Layers {', '.join(map(str, record['dropped']))} of {record['num_layers']['before']} are gone: "
        f"{sizes['before']:,} → {sizes['after']:,} parameters ({sizes['removed_ratio']:.2%} removed) in "
        f"{sum(cost['seconds'].values()):.0f} s; peak memory {mebibytes(cost['peak_host_bytes'])}."
    )
    _print_beginning(record)


def _print_beginning(record: Mapping[str, Any]) -> None:
    if record["bos"] is not None:
        out.print(f"Every calibration window began with {record['bos']}.")
