"""What a manager reads first: smaller by, faster by, worse by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimgpt.reports.memory import mebibytes
from slimgpt.reports.results import Interval, Speed
from slimgpt.reports.runs import DENSE_NAME, Run
from slimgpt.reports.subjects import Measure, Subject, headline, suite_mean

SAMENESS = 0.005  # a change that is shown as 0 %


@dataclass(frozen=True)
class Tile:
    """One figure of the summary.

    Attributes:
        label: what it says, in words that hold for its sign.
        value: the figure with its unit; None if it was not measured.
        details: what stands behind it, a line each.
    """

    label: str
    value: str | None
    details: tuple[str, ...] = ()


def size_tile(run: Run) -> Tile:
    """Parameters, and megabytes on disk."""
    removed = 1 - run.after / run.before
    details = (
        f"{millions(run.before)} → {millions(run.after)} parameters",
        f"{mebibytes(run.bytes_after)} of weights on disk",
    )
    return Tile("Smaller by", f"{removed:.1%}", details)


def speed_tile(run: Run, dense: Speed | None) -> Tile:
    """Tokens per second while generating: the ratio of paired repeats where both models took turns."""
    own = run.speed
    if own is None or dense is None:
        return Tile("Faster by", None)
    memory = f"peak memory {mebibytes(dense.peak_bytes)} → {mebibytes(own.peak_bytes)}"
    if own.ratios is not None and own.first_parameters == run.before:
        ratio, first_token = own.ratios["decode"], own.ratios["time_to_first_token"]
        details = (
            f"{ratio.value:.2f} times the tokens/s while generating ({ratio.low:.2f} to {ratio.high:.2f}, quartiles of "
            "paired repeats)",
            f"first token after {first_token.value:.2f} times the time",
        )
        return Tile(*_speed_words(ratio), (*details, memory))
    if own.device != dense.device:
        return Tile("Faster by", None, (f"Measured on {own.device}, but the dense model on {dense.device}.",))
    value = own.decode.value / dense.decode.value
    details = (
        f"{dense.decode.value:,.1f} → {own.decode.value:,.1f} tokens/s while generating",
        "not measured in turns with the dense model, so this may be off",
    )
    return Tile(*_speed_words(Interval(value, value, value)), (*details, memory))


def _speed_words(ratio: Interval) -> tuple[str, str]:
    if ratio.low < 1 < ratio.high:
        return "Speed, no clear change", f"{ratio.value - 1:+.0%}".replace("-", "−")
    if ratio.value >= 1:
        return "Faster by", f"{ratio.value - 1:.0%}"
    return "Slower by", f"{1 - ratio.value:.0%}"


def quality_tile(run: Run, models: Sequence[Subject]) -> Tile:
    """The headline figure, and the mean of the tasks."""
    measure, mean = headline(models), suite_mean(models)
    if measure is None or not {run.name, DENSE_NAME} <= measure.values.keys():
        known = [found for found in (measure, mean) if found and run.name in found.values]
        return Tile("Worse by", None, tuple(f"{found.label}: {found.values[run.name].value:,.2f}" for found in known))
    before, after = (measure.values[name] for name in (DENSE_NAME, run.name))
    details = [f"{measure.label}: {before.value:,.2f} → {after.value:,.2f}{_overlap(before, after)}"]
    if mean and mean is not measure and {run.name, DENSE_NAME} <= mean.values.keys():
        first, second = (mean.values[name] for name in (DENSE_NAME, run.name))
        change = f"{second.value - first.value:+.1f} points".replace("-", "−")
        details.append(f"{mean.label}: {first.value:.1f} → {second.value:.1f}, {change}{_overlap(first, second)}")
    return Tile(*_quality_words(measure, before.value, after.value), tuple(details))


def _overlap(first: Interval, second: Interval) -> str:
    """A warning where the figures could be one."""
    return " (95 % intervals overlap)" if first.low <= second.high and second.low <= first.high else ""


def _quality_words(measure: Measure, before: float, after: float) -> tuple[str, str]:
    if measure.better == "higher":
        return ("Worse by" if after < before else "Better by"), f"{abs(after - before):.1f} points"
    label = "Worse by" if after > before * (1 - SAMENESS) else "Better by"
    if after / before < 2:
        return label, f"{abs(after / before - 1):.0%}"
    return "Worse by a factor of", f"{after / before:.2f}"


def millions(count: float) -> str:
    """Parameters for people."""
    return f"{count / 1e9:,.2f} billion" if count >= 1e9 else f"{count / 1e6:,.1f} million"
