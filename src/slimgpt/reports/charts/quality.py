"""Quality: perplexity, tasks and robustness of all models side by side, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from slimgpt.reports.charts.chart import Chart, Table, canvas, legend, log_axis, look, short
from slimgpt.reports.palette import DENSE, Style, style
from slimgpt.reports.results import Interval, TaskScore, TextScore
from slimgpt.reports.runs import DENSE_NAME, Run
from slimgpt.reports.subjects import SUITE, Subject, one_tokenizer, percent, tasks, texts

ROW, POINT, MARGIN = 16, 9, 62  # CSS pixels of a row, of each model in it, and of what is around the axes
CONFIDENCE = "Marks are the measured figures, lines their 95 % confidence intervals."


@dataclass(frozen=True)
class Series:
    """One model's intervals, one a row; None where it was not measured."""

    name: str
    style: Style
    values: Sequence[Interval | None]


def perplexities(models: Sequence[Subject]) -> Chart:
    """Perplexity on every text and window, or bits per byte where tokenizers differ."""
    rows, comparable = texts(models), one_tokenizer(models)
    series = [
        Series(
            model.name,
            model.style,
            [
                (score.perplexity if comparable else score.bits_per_byte)
                if model.quality and (score := model.quality.texts.get(row))
                else None
                for row in rows
            ],
        )
        for model in models
    ]
    amounts = _amounts({row: {score.num_tokens for score in _scores(models, row)} for row in rows}, "tokens")
    label = "perplexity per token" if comparable else "bits per byte"
    scale = " The axis is logarithmic." if comparable else ""
    return _dots(
        "perplexity",
        f"{label[0].upper()}{label[1:]}",
        f"Lower is better. {CONFIDENCE}{scale} A name is a text and the tokens of a window. {amounts}",
        f"{label}, log scale" if comparable else label,
        rows,
        series,
        log=comparable,
        form=".2f" if comparable else ".4f",
    )


def accuracies(models: Sequence[Subject]) -> Chart:
    """Every task of every model, in per cent."""
    rows = tasks(models)
    series = [
        Series(
            model.name,
            model.style,
            [
                percent(score.score) if model.quality and (score := model.quality.tasks.get(row)) else None
                for row in rows
            ],
        )
        for model in models
    ]
    asked = {row: {score.num_rows for score in _answers(models, row)} for row in rows if row != SUITE}
    amounts = _amounts(asked, "rows")
    rows = ["mean (slimgpt)" if row == SUITE else row for row in rows]
    reading = f"Higher is better. {CONFIDENCE} {amounts}"
    return _dots("tasks", "Tasks", reading, "accuracy, %", rows, series, form=".1f")


def _scores(models: Sequence[Subject], name: str) -> list[TextScore]:
    return [model.quality.texts[name] for model in models if model.quality and name in model.quality.texts]


def _answers(models: Sequence[Subject], name: str) -> list[TaskScore]:
    return [model.quality.tasks[name] for model in models if model.quality and name in model.quality.tasks]


def _amounts(counts: Mapping[str, set[int | None]], unit: str) -> str:
    """How much was measured, and a warning where it was not the same for all models."""
    known = sorted({count for found in counts.values() for count in found if count is not None})
    if not known:
        return ""
    spread = f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
    unequal = [name for name, found in counts.items() if len(found) > 1]
    warning = f" Not the same number for all models: {', '.join(unequal)}." if unequal else ""
    return f"Measured on {spread} {unit} each.{warning}"


def robustness(runs: Sequence[Run]) -> Chart:
    """Bits per byte of corrupted text."""
    having = [(index, run) for index, run in enumerate(runs) if run.comparison and run.comparison.robustness]
    found = {run.name: {row.name: row for row in run.comparison.robustness} for _, run in having if run.comparison}
    rows = list(dict.fromkeys(name for corruptions in found.values() for name in corruptions))
    dense = next(iter(found.values()))
    series = [Series(DENSE_NAME, DENSE, [_exact(dense[row].dense) if row in dense else None for row in rows])]
    for index, run in having:
        own = found[run.name]
        values = [_exact(own[row].pruned) if row in own else None for row in rows]
        series.append(Series(run.name, style(index), values))
    return _dots(
        "robustness",
        "Corrupted input",
        "Bits per byte of the same text after each corruption; lower is better. A robust model moves little from "
        "the first row to the others.",
        "bits per byte",
        ["as it is" if row == "none" else row.replace("-", " ") for row in rows],
        series,
        form=".4f",
    )


def _exact(value: float) -> Interval:
    return Interval(value, value, value)


def _dots(
    name: str,
    title: str,
    reading: str,
    label: str,
    rows: Sequence[str],
    series: Sequence[Series],
    log: bool = False,
    form: str = ".3f",
) -> Chart:
    """One row a text, task or corruption, and in it one mark a model."""
    step = ROW + POINT * len(series)
    with canvas(len(rows) * step + MARGIN + 14 * ((len(series) + 1) // 2)) as (figure, axes):
        for index, own in enumerate(series):
            shift = (index - (len(series) - 1) / 2) * POINT / step
            points = [(value, row + shift) for row, value in enumerate(own.values) if value is not None]
            whiskers = [[v.value - v.low for v, _ in points], [v.high - v.value for v, _ in points]]
            words = {**look(own.style, line=False), "markersize": 5.5}
            at = [place for _, place in points]
            axes.errorbar([v.value for v, _ in points], at, xerr=whiskers, label=short(own.name, 24), **words)
        _name_rows(axes, rows)
        axes.set_xlabel(label)
        if log:
            axes.set_xscale("log")
            log_axis(axes.xaxis)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        legend(figure, len(series))
    return Chart(name, title, reading, _table(rows, series, form), figure)


def _name_rows(axes: Axes, rows: Sequence[str]) -> None:
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [short(row, 24) for row in rows])
    axes.set_yticks([row + 0.5 for row in range(len(rows) - 1)], minor=True)
    axes.tick_params(length=0, which="both")
    axes.grid(axis="y", which="minor")
    axes.spines["left"].set_visible(False)


def _table(rows: Sequence[str], series: Sequence[Series], form: str) -> Table:
    body = [(row, *(_shown(own.values[index], form) for own in series)) for index, row in enumerate(rows)]
    return Table(("", *(own.name for own in series)), body)


def _shown(value: Interval | None, form: str) -> str:
    if value is None:
        return "–"
    if value.low == value.high:
        return f"{value.value:,{form}}"
    return f"{value.value:,{form}} ({value.low:,{form}} – {value.high:,{form}})"
