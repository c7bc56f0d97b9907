"""Figures of a study: quality by cost, loss by ratio with bands, forests of paired differences, zeros against speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from slimgpt.reports.charts.chart import Chart, Table, canvas, legend, log_axis, look, short
from slimgpt.reports.charts.tradeoff import pareto_front
from slimgpt.reports.palette import DENSE, LIGHT, Style, style
from slimgpt.studies.claims import Evidence
from slimgpt.studies.paired import Difference

Row = Mapping[str, Any]
WORST = 20.0  # times the dense perplexity: beyond it figures say no more than "broken"
ROW = 15  # CSS pixels of a comparison in a forest


@dataclass(frozen=True)
class Cost:
    """What quality is set against: a column, its unit and its name."""

    name: str
    column: str
    scale: float
    label: str
    note: str = ""


COSTS = (
    Cost("size", "nonzero_parameters", 1e6, "parameters that are not zero, millions", "Zeros count as nothing here."),
    Cost(
        "bytes", "stored_bytes", 2**20, "stored weights, MiB", "Zeros in an ordinary file take the space of any number."
    ),
    Cost(
        "latency",
        "decode_ms_per_token",
        1,
        "ms per generated token, measured",
        "Zeros are multiplied as any number is.",
    ),
)


@dataclass(frozen=True)
class Curve:
    """Loss by ratio of one way of pruning: points of (removed share, difference to the dense control)."""

    name: str
    points: Sequence[tuple[float, Difference]]


def pareto(name: str, model: str, rows: Sequence[Row], cost: Cost) -> Chart | None:
    """Perplexity by one cost, all cells of a model; None where fewer than two were measured."""
    points = [row for row in rows if row[cost.column] is not None and row["perplexity"] is not None]
    best = min((row["perplexity"] for row in points), default=0.0)
    shown = [row for row in points if row["perplexity"] <= WORST * best]
    if len(shown) < 2:
        return None
    methods = _methods(rows)
    with canvas(300) as (figure, axes):
        front = pareto_front([(row[cost.column] / cost.scale, row["perplexity"]) for row in shown], lower=True)
        axes.plot(*zip(*front, strict=True), color=LIGHT["muted"], lw=0.9, ls=(0, (2, 2)), zorder=1)
        for method, own in methods.items():
            at = [(row[cost.column] / cost.scale, row["perplexity"]) for row in shown if row["method"] == method]
            if at:
                axes.plot(*zip(*at, strict=True), label=method, **look(own, line=False))
        axes.set_xlabel(cost.label)
        _perplexity_axis(axes, "perplexity, log scale")
        legend(figure, len(methods))
    left_out = (
        f" {len(points) - len(shown)} cells above {WORST:g} times the best are left out." if points != shown else ""
    )
    reading = (
        f"Left is cheaper, down is better; the dotted line joins the cells that no other beats in both. {cost.note}"
        f"{left_out}"
    )
    body = [(cell_name(row), f"{row[cost.column] / cost.scale:,.2f}", f"{row['perplexity']:,.2f}") for row in points]
    return Chart(
        f"{name}-{cost.name}", f"{model}: quality against {cost.label.partition(',')[0]}", reading,
        Table(("cell", cost.label, "perplexity"), body), figure,
    )  # fmt: skip


def curves(name: str, title: str, lines: Sequence[Curve]) -> Chart:
    """Perplexity relative to the dense control by removed share, with paired 95 % intervals as bands."""
    with canvas(320) as (figure, axes):
        for index, line in enumerate(lines):
            points = [
                (0.0, 1.0, 1.0, 1.0),
                *((share, *_ratios(found)) for share, found in sorted(line.points, key=_share)),
            ]
            own = look(style(index))
            shares, values, lows, highs = zip(*points, strict=True)
            axes.fill_between(shares, lows, highs, color=own["color"], alpha=0.15, lw=0)
            axes.plot(shares, values, label=short(line.name, 26), **own)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("parameters removed or zero, of all")
        _perplexity_axis(axes, "perplexity, times the dense control's")
        legend(figure, len(lines))
    body = [
        (line.name, f"{share:.1%}", *(f"{value:.3f}" for value in _ratios(found, cut=False)), str(found.seeds))
        for line in lines
        for share, found in sorted(line.points, key=_share)
    ]
    reading = (
        "1 is the dense model with the same tuning. Bands are 95 % intervals of the paired difference, over windows of "
        f"text and over seeds where there are several; the axis ends at {WORST:g}."
    )
    return Chart(
        name, title, reading, Table(("method", "removed", "times dense", "low", "high", "seeds"), body), figure
    )


def _share(point: tuple[float, Difference]) -> float:
    return point[0]


def _ratios(found: Difference, cut: bool = True) -> tuple[float, float, float]:
    """Perplexity ratio, low and high; an interval that two seeds leave without end stops at the figure's."""
    limit = math.log(WORST) if cut else 700.0
    value, low, high = (math.exp(max(-limit, min(limit, nats))) for nats in (found.value, found.low, found.high))
    return value, low, high


def forest(name: str, title: str, reading: str, evidence: Sequence[Evidence]) -> Chart:
    """One line a comparison: its mark and its interval, as perplexity in per cent."""
    ordered = sorted(evidence, key=lambda own: own.difference.value)
    with canvas(ROW * len(ordered) + 70) as (figure, axes):
        axes.axvline(0, color=LIGHT["muted"], lw=0.9, ls=(0, (2, 2)))
        for place, own in enumerate(ordered):
            value, low, high = (100 * (ratio - 1) for ratio in _ratios(own.difference))
            sure = own.difference.high < 0 or own.difference.low > 0
            words = {**look(style(0) if sure else DENSE, line=False), "markersize": 5}
            axes.errorbar([value], [place], xerr=[[value - low], [high - value]], **words)
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.set_yticks(range(len(ordered)), [short(own.what, 34) for own in ordered], fontsize=7.5)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xscale("symlog", linthresh=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+,.0f}".replace("-", "−"))
        axes.grid(axis="x")
        axes.set_xlabel("perplexity, % of the other's, logarithmic beyond 5")
    body = [
        (
            own.what,
            *(f"{100 * (ratio - 1):+,.2f} %" for ratio in _ratios(own.difference, cut=False)),
            str(own.difference.seeds),
        )
        for own in ordered
    ]
    return Chart(name, title, reading, Table(("comparison", "difference", "low", "high", "seeds"), body), figure)


def zeros_and_speed(name: str, model: str, rows: Sequence[Row]) -> Chart | None:
    """Theoretical work, zeros skipped, against measured speed."""
    dense = next((row for row in rows if row["method"] == "dense" and row["flops_per_token"]), None)
    points = [row for row in rows if row["flops_per_token_without_zeros"] and row["decode_ratio_to_dense"]]
    if dense is None or len(points) < 2:
        return None
    whole = dense["flops_per_token_without_zeros"]
    with canvas(280) as (figure, axes):
        methods = _methods(rows)
        for method, own in methods.items():
            at = [
                (row["flops_per_token_without_zeros"] / whole, row["decode_ratio_to_dense"])
                for row in points
                if row["method"] == method
            ]
            if at:
                axes.plot(*zip(*at, strict=True), label=method, **look(own, line=False))
        shares = [row["flops_per_token_without_zeros"] / whole for row in points]
        ideal = [min(shares) + (1 - min(shares)) * step / 20 for step in range(21)]
        axes.plot(ideal, [1 / share for share in ideal], color=LIGHT["muted"], lw=0.9, ls=(0, (2, 2)))
        axes.set_xlabel("arithmetic left, zeros skipped, share of dense")
        axes.set_ylabel("generated tokens/s, times dense")
        axes.grid()
        axes.xaxis.set_major_locator(MaxNLocator(5))
        legend(figure, len(methods))
    reading = (
        "The dotted line is where speed would grow as arithmetic shrinks. Ordinary kernels multiply zeros as they do "
        "any number."
    )
    body = [
        (cell_name(row), f"{row['flops_per_token_without_zeros'] / whole:.1%}", f"{row['decode_ratio_to_dense']:.2f}")
        for row in points
    ]
    return Chart(
        name, f"{model}: zeros are not speed", reading, Table(("cell", "arithmetic left", "speed"), body), figure
    )


def cell_name(row: Row) -> str:
    """A cell in a few words."""
    parts = [row["method"]]
    if row["method"] != "dense":
        parts += [row["granularity"], f"{row['ratio']:.0%}"]
    parts += [row[axis] for axis in ("schedule", "allocation") if row[axis] not in ("one-shot", "default")]
    parts += [row[axis] for axis in ("tuning", "quantisation") if row[axis] != "none"]
    return " ".join([*parts, f"seed {row['seed']}"])


def _methods(rows: Sequence[Row]) -> dict[str, Style]:
    """Method -> its look, the same in all figures of a study that has the same methods."""
    pruned = sorted({row["method"] for row in rows} - {"dense"})
    return {"dense": DENSE, **{method: style(index) for index, method in enumerate(pruned)}}


def _perplexity_axis(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.set_yscale("log")
    log_axis(axes.yaxis)
    axes.grid()
