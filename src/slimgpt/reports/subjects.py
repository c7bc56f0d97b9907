"""The models that are compared, the dense one among them, and by which figures they can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimgpt.reports.palette import DENSE, Style, style
from slimgpt.reports.results import Interval, Quality, Speed
from slimgpt.reports.runs import DENSE_NAME, Dense, Run

SUITE = "slimgpt"  # the name of the tasks' mean in eval.json


@dataclass(frozen=True)
class Subject:
    """A model in a comparison.

    Attributes:
        kind: dense, pruned or recovered.
        size: parameters.
    """

    name: str
    kind: str
    style: Style
    size: int
    quality: Quality | None
    speed: Speed | None


@dataclass(frozen=True)
class Measure:
    """A figure of quality that all comparable models have.

    Attributes:
        label: with its unit.
        better: which way is better, in a word.
        log: whether its axis is logarithmic.
        values: by the subjects' names.
    """

    label: str
    better: str
    log: bool
    values: dict[str, Interval]


def subjects(runs: Sequence[Run], dense: Dense) -> list[Subject]:
    """The dense model, where anything is known of it, and the runs."""
    found = [
        Subject(run.name, "recovered" if run.recovered else "pruned", style(index), run.after, run.quality, run.speed)
        for index, run in enumerate(runs)
    ]
    known = dense.quality or dense.speed
    if known is None:
        return found
    return [Subject(DENSE_NAME, "dense", DENSE, known.parameters, dense.quality, dense.speed), *found]


def one_tokenizer(models: Sequence[Subject]) -> bool:
    """Whether their perplexities, which are per token, can be compared."""
    return len({model.quality.tokenizer for model in models if model.quality}) <= 1


def same_conditions(models: Sequence[Subject]) -> bool:
    """Whether their speeds were measured on one device in one way."""
    measured = [model.speed for model in models if model.speed]
    keys = ("prompt_tokens", "new_tokens", "batch_size", "threads")
    return len({(speed.device, *(speed.options.get(key) for key in keys)) for speed in measured}) <= 1


def texts(models: Sequence[Subject]) -> list[str]:
    """Names of all texts that any of them was measured on, in the order of the files."""
    return list(dict.fromkeys(name for model in models if model.quality for name in model.quality.texts))


def tasks(models: Sequence[Subject]) -> list[str]:
    """Names of all tasks, the suite's mean last."""
    names = dict.fromkeys(name for model in models if model.quality for name in model.quality.tasks)
    return sorted(names, key=lambda name: name == SUITE)


def headline(models: Sequence[Subject]) -> Measure | None:
    """The figure by which quality is summed up: perplexity if it can be compared, else bits per byte, else tasks.

    Of several texts the one that most models have, and of those the one with the longest window, listed last.
    """
    with_quality = [model for model in models if model.quality]
    names = texts(with_quality)
    if names:
        return _text_measure(with_quality, max(reversed(names), key=lambda name: len(_having(with_quality, name))))
    return suite_mean(models)


def _having(models: Sequence[Subject], name: str) -> list[Subject]:
    return [model for model in models if model.quality and name in model.quality.texts]


def _text_measure(models: Sequence[Subject], name: str) -> Measure:
    scores = {model.name: model.quality.texts[name] for model in _having(models, name) if model.quality}
    if one_tokenizer(models):
        return Measure(
            f"perplexity, {name}", "lower", True, {model: score.perplexity for model, score in scores.items()}
        )
    values = {model: score.bits_per_byte for model, score in scores.items()}
    return Measure(f"bits per byte, {name}", "lower", False, values)


def suite_mean(models: Sequence[Subject]) -> Measure | None:
    """Mean accuracy of the suite in per cent, or None where nobody has it."""
    values = {
        model.name: percent(model.quality.tasks[SUITE].score)
        for model in models
        if model.quality and SUITE in model.quality.tasks
    }
    return Measure("mean accuracy, %", "higher", False, values) if values else None


def percent(share: Interval) -> Interval:
    """A fraction in per cent."""
    return Interval(100 * share.value, 100 * share.low, 100 * share.high)
