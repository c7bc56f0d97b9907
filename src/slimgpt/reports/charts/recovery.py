"""Training after pruning: held-out perplexity by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from slimgpt.reports.charts.chart import Chart, Table, canvas, legend, look, short
from slimgpt.reports.palette import style
from slimgpt.reports.runs import Run

LABEL = "held-out perplexity"


def recoveries(runs: Sequence[Run]) -> Chart | None:
    """Perplexity on held-out training text, recoveries of one run one after the other; None where none was kept."""
    found = {(index, run.name): _steps(run.record.get("recovery") or []) for index, run in enumerate(runs)}
    lines = {key: steps for key, steps in found.items() if steps}
    if not lines:
        return None
    with canvas(220) as (figure, axes):
        for (index, name), steps in lines.items():
            axes.plot(*zip(*steps, strict=True), label=short(name, 24), **look(style(index)))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(LABEL)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        if len(lines) > 1:
            legend(figure, len(lines))
    rows = [(name, str(step), f"{value:.3f}") for (_, name), steps in lines.items() for step, value in steps]
    reading = "Perplexity on rows kept out of the training text; lower is better. The axis does not begin at 0."
    return Chart("recovery", "Recovery", reading, Table(("run", "step", LABEL), rows), figure)


def _steps(recoveries: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Steps counted through all recoveries of a run."""
    steps: list[tuple[int, float]] = []
    for recovery in recoveries:
        begin = steps[-1][0] if steps else 0
        points = [point for point in recovery.get("history", []) if "eval_perplexity" in point]
        steps += [(begin + int(point["step"]), float(point["eval_perplexity"])) for point in points]
    return steps
