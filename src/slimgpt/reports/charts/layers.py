"""What happened layer by layer: kept heads and channels, error, similarity to the dense model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from slimgpt.output.record_sites import part_name
from slimgpt.reports.charts.chart import Chart, Table, canvas, legend, look, short
from slimgpt.reports.palette import LIGHT, style
from slimgpt.reports.runs import Kept, Run

MARGIN = 60  # CSS pixels that axis labels and ticks take of a chart's height
MOST_UNITS = 64  # heads that are drawn one by one
MOST_STRETCHED = 16  # fewer heads than that do not fill the width
QUERY_HEAD = "query head"
CHANNEL = "channel"
NONE = Kept((), 0, math.nan)
"""What a layer has of a part that it lacks."""


def kept_units(run: Run, index: int, part: str) -> Chart:
    """What of a part stayed in each layer: one square for each unit, or, where they are many or channels, a bar."""
    layers = [layer.get(part, NONE) for layer in run.layers]
    if _unit(layers) == CHANNEL or max(kept.num_units for kept in layers) > MOST_UNITS:
        return _bars(run, index, part, layers)
    step = _step(len(layers))
    with canvas(len(layers) * step + MARGIN) as (figure, axes):
        size = 0.62 * step
        kept, gone = _squares(layers)
        colour = style(index).colour
        axes.plot(*kept, "s", ms=size, mfc=colour, mec=colour, mew=0.7, label="kept")
        axes.plot(*gone, "s", ms=size, mfc="none", mec=LIGHT["muted"], mew=0.7, label="removed")
        _layer_axis(axes, len(layers))
        axes.set_xlabel(_unit(layers), loc="left")
        most = max(layer.num_units for layer in layers)
        axes.set_xlim(-0.5, max(most, MOST_STRETCHED) - 0.5)
        axes.set_xticks(range(0, most, max(1, most // 8)))
        legend(figure, 2)
    return Chart(
        chart_name(part, index),
        f"{_title(part)} of {run.name}",
        f"{_reading(layers)} Filled squares stayed, hollow ones were removed.",
        _kept_table(layers),
        figure,
    )


def chart_name(part: str, index: int) -> str:
    """What the chart of a part of run number ``index`` is called."""
    return f"kept-{part}-{index + 1}"


def _title(part: str) -> str:
    name = part_name(part)
    return name[0].upper() + name[1:]


def _unit(layers: Sequence[Kept]) -> str:
    if any(kept.members > 1 for kept in layers):
        return QUERY_HEAD
    return next(kept.unit for kept in layers if kept.num_units)


def _reading(layers: Sequence[Kept]) -> str:
    unit = _unit(layers)
    if unit == QUERY_HEAD:
        shared = max(kept.members for kept in layers)
        return f"Every square is a query head; up to {shared} side by side share a KV head, which stays while one does."
    if unit == "KV group":
        return "Every square is a KV group: a KV head with its query heads."
    return f"Every square is a {unit}."


def _squares(layers: Sequence[Kept]) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    """Coordinates of what stayed and of what went."""
    kept: tuple[list[int], list[int]] = ([], [])
    gone: tuple[list[int], list[int]] = ([], [])
    for row, layer in enumerate(layers):
        units = set(layer.units)
        for unit in range(layer.num_units):
            columns, rows = kept if unit in units else gone
            columns.append(unit)
            rows.append(row)
    return kept, gone


def _bars(run: Run, index: int, part: str, layers: Sequence[Kept]) -> Chart:
    """How much of a part each layer still has."""
    rows, label = range(len(layers)), f"kept {part_name(part)} {_unit(layers)}s"
    with canvas(len(layers) * _step(len(layers)) + MARGIN) as (figure, axes):
        before = [layer.num_units for layer in layers]
        axes.barh(rows, [len(layer.units) for layer in layers], height=0.62, fc=style(index).colour, label="kept")
        axes.barh(rows, before, height=0.62, fc="none", ec=LIGHT["muted"], lw=0.7, label="removed")
        _layer_axis(axes, len(layers))
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend(figure, 2)
    return Chart(
        chart_name(part, index),
        f"{_title(part)} of {run.name}",
        f"The filled part of each bar is the layer's {label}; the outline is what it had.",
        _kept_table(layers),
        figure,
    )


def _step(num_layers: int) -> float:
    """Height of a layer's row: shallow models are not stretched, deep ones stay legible."""
    return max(7.0, min(14.0, 400 / num_layers))


def _layer_axis(axes: Axes, num_layers: int) -> None:
    """Layers from the top down, as the text flows through them."""
    axes.set_ylim(num_layers - 0.4, -0.6)
    axes.set_ylabel("layer")
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _kept_table(layers: Sequence[Kept]) -> Table:
    rows = [
        (str(index), f"{len(kept.units):,}", f"{kept.num_units:,}", f"{len(kept.units) / kept.num_units:.1%}")
        for index, kept in enumerate(layers)
        if kept.num_units
    ]
    return Table(("layer", "kept", "of", "share"), rows)


def errors(runs: Sequence[Run], part: str) -> Chart:
    """What pruning cost each layer's output, on the calibration text."""
    values = {
        run.name: [layer[part].error if part in layer else math.nan for layer in run.layers]
        for run in runs
        if part in run.parts
    }
    return _lines(
        f"error-{part}",
        f"Error of the {part_name(part)} outputs",
        "Squared error of the pruned projection's output on the calibration text, relative to that output: 0 is "
        "unchanged, 1 is as bad as no output. It is not a measure of quality.",
        "relative squared error",
        values,
        floor=0.0,
        styles=[index for index, run in enumerate(runs) if part in run.parts],
    )


def similarity(runs: Sequence[Run]) -> Chart:
    """Linear CKA of every layer's output, dense against pruned."""
    values = {run.name: list(run.comparison.cka) for run in runs if run.comparison}
    styles = [index for index, run in enumerate(runs) if run.comparison]
    return _lines(
        "cka",
        "Similarity to the dense model (linear CKA)",
        "How alike the representations of the dense and the pruned model are after each layer: 1 is equal up to "
        "rotation and scale. The axis does not begin at 0.",
        "linear CKA",
        values,
        ceiling=1.0,
        styles=styles,
    )


def _lines(
    name: str,
    title: str,
    reading: str,
    label: str,
    values: Mapping[str, Sequence[float]],
    floor: float | None = None,
    ceiling: float | None = None,
    styles: Sequence[int] | None = None,
) -> Chart:
    """One line a run over the layers."""
    deepest = max(len(line) for line in values.values())
    with canvas(230) as (figure, axes):
        for index, (run, line) in zip(styles or range(len(values)), values.items(), strict=True):
            axes.plot(range(len(line)), line, label=short(run, 24), **look(style(index)))
        axes.set_xlabel("layer")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(axis="y")
        if floor is not None:
            axes.set_ylim(bottom=floor)
        if ceiling is not None:
            low = axes.get_ylim()[0]
            axes.set_ylim(low, ceiling + 0.03 * (ceiling - low))
        if len(values) > 1:
            legend(figure, len(values))
    rows = [(str(layer), *(_figure(line, layer) for line in values.values())) for layer in range(deepest)]
    return Chart(name, title, reading, Table(("layer", *values), rows), figure)


def _figure(line: Sequence[float], layer: int) -> str:
    return "–" if layer >= len(line) or math.isnan(line[layer]) else f"{line[layer]:.4f}"
