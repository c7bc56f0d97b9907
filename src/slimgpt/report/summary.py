"""What a manager reads first: smaller by, faster by, worse by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimgpt.report.results import Interval, Speed
from slimgpt.report.runs import Run
from slimgpt.report.subjects import DENSE_NAME, Measure, Subject, headline, suite_mean

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
    """Tokens per second while generating; as a ratio of paired repeats where both models took turns."""
    own = run.speed
    if own is None or dense is None:
        return Tile("Faster by", None)
    paired = own.ratios["decode"] if own.ratios is not None and own.first_parameters == run.before else None
    if paired is None and own.device != dense.device:
        return Tile("Faster by", None, (f"Measured on {own.device}, but the dense model on {dense.device}.",))
    value = own.decode.value / dense.decode.value
    ratio = paired or Interval(value, value, value)
    pairing = (
        f"{ratio.low:.2f} to {ratio.high:.2f} times as fast (quartiles of paired repeats)"
        if paired
        else "not measured in turns with the dense model, so the ratio may be off"
    )
    details = (
        f"{dense.decode.value:,.1f} → {own.decode.value:,.1f} tokens/s while generating",
        pairing,
        f"first token after {dense.first_token_ms.value:,.0f} → {own.first_token_ms.value:,.0f} ms",
        f"peak memory {mebibytes(dense.peak_bytes)} → {mebibytes(own.peak_bytes)}",
    )
    return Tile(*_speed_words(ratio), details)


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
    before, after = (measure.values[name].value for name in (DENSE_NAME, run.name))
    details = [f"{measure.label}: {before:,.2f} → {after:,.2f}"]
    if mean and mean is not measure and {run.name, DENSE_NAME} <= mean.values.keys():
        first, second = (mean.values[name].value for name in (DENSE_NAME, run.name))
        change = f"{second - first:+.1f}".replace("-", "−")
        details.append(f"{mean.label}: {first:.1f} → {second:.1f} ({change} points)")
    return Tile(*_quality_words(measure, before, after), tuple(details))


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


def mebibytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**33 else f"{count / 2**30:,.1f} GiB"
