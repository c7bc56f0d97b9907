"""What a model costs against what it is worth: quality by size and by latency, and speeds side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from slimgpt.reports.charts.chart import Chart, Table, canvas, log_axis, look, short
from slimgpt.reports.palette import LIGHT
from slimgpt.reports.results import Interval
from slimgpt.reports.subjects import Measure, Subject

Point = tuple[Subject, float, Interval]  # a model, its cost and its quality


def by_size(models: Sequence[Subject], measure: Measure) -> Chart:
    """Quality against parameters."""
    return _scatter(
        "pareto-size",
        "Quality against size",
        "parameters, millions",
        [(model, model.size / 1e6, measure.values[model.name]) for model in models if model.name in measure.values],
        measure,
    )


def by_latency(models: Sequence[Subject], measure: Measure) -> Chart:
    """Quality against milliseconds per generated token."""
    points = [
        (model, 1000 / model.speed.decode.value, measure.values[model.name])
        for model in models
        if model.speed and model.name in measure.values
    ]
    return _scatter("pareto-latency", "Quality against latency", "ms per generated token", points, measure)


def _scatter(name: str, title: str, label: str, points: Sequence[Point], measure: Measure) -> Chart:
    lower = measure.better == "lower"
    with canvas(270) as (figure, axes):
        front = pareto_front([(cost, worth.value) for _, cost, worth in points], lower)
        axes.plot(*zip(*front, strict=True), color=LIGHT["muted"], lw=0.9, ls=(0, (2, 2)), zorder=1)
        for rank, (model, cost, worth) in enumerate(sorted(points, key=lambda point: point[1])):
            whiskers = [[worth.value - worth.low], [worth.high - worth.value]]
            words = {**look(model.style, line=False), "markersize": 6.5}
            axes.errorbar([cost], [worth.value], yerr=whiskers, **words)
            to_the_left = rank == len(points) - 1 or (rank % 2 == 1)
            _name(axes, short(model.name), (cost, worth.value), to_the_left, above=to_the_left != lower)
        axes.set_xlabel(label)
        axes.set_ylabel(f"{measure.label}{', log scale' if measure.log else ''}")
        axes.grid()
        axes.margins(0.12, 0.14)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        if measure.log:
            axes.set_yscale("log")
            log_axis(axes.yaxis)
    rows = [(model.name, f"{cost:,.1f}", f"{worth.value:,.2f}") for model, cost, worth in points]
    reading = (
        f"Left is cheaper, {'down' if lower else 'up'} is better. The dotted line joins the models that no other beats "
        "in both. Lines on the marks are 95 % confidence intervals; the axes do not begin at 0."
    )
    return Chart(name, title, reading, Table(("model", label, measure.label), rows), figure)


def _name(axes: Axes, name: str, point: tuple[float, float], to_the_left: bool, above: bool) -> None:
    """Beside its mark, off the curve that such points make, sides taking turns."""
    axes.annotate(
        name,
        point,
        textcoords="offset points",
        xytext=(-8 if to_the_left else 8, 4 if above else -4),
        ha="right" if to_the_left else "left",
        va="bottom" if above else "top",
        fontsize=10,
    )


def pareto_front(points: Sequence[tuple[float, float]], lower: bool) -> list[tuple[float, float]]:
    """Those (cost, worth) that nothing as cheap beats, cheapest first; ``lower`` says which worth is better."""
    front: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], point[1] if lower else -point[1])):
        if not front or (worth < front[-1][1] if lower else worth > front[-1][1]):
            front.append((cost, worth))
    return front


def speed(models: Sequence[Subject], stage: Literal["prefill", "decode"]) -> Chart:
    """Tokens per second while reading prompts or generating, as bars."""
    measured = [(model, getattr(model.speed, stage)) for model in models if model.speed]
    with canvas(24 * len(measured) + 52) as (figure, axes):
        for row, (model, value) in enumerate(measured):
            face = model.style.colour if model.style.filled else "none"
            axes.barh([row], [value.value], height=0.55, fc=face, ec=model.style.colour, lw=1)
            whiskers = [[value.value - value.low], [value.high - value.value]]
            axes.errorbar([value.value], [row], xerr=whiskers, color=LIGHT["ink"], lw=1.1, capsize=2.5)
        axes.set_ylim(len(measured) - 0.4, -0.6)
        axes.set_yticks(range(len(measured)), [short(model.name) for model, _ in measured])
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("tokens per second")
    rows = [(model.name, f"{value.value:,.1f}", f"{value.low:,.1f} – {value.high:,.1f}") for model, value in measured]
    reading = "Longer is faster. Bars are medians, lines the quartiles of the repeats."
    title = {"prefill": "Reading the prompt", "decode": "Generating"}[stage]
    return Chart(f"speed-{stage}", title, reading, Table(("model", "tokens/s", "quartiles"), rows), figure)
