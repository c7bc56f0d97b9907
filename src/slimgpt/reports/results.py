"""The files of measurements, ``eval.json``, ``bench.json`` and ``compare.json``, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Z_95 = 1.959964  # a normal deviate is within so many standard errors of its mean in 95 of 100 cases
METRICS = ("acc", "exact_match", "f1", "mc2", "mc1")
"""Which of a task's figures stands for it, the first that it has."""


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its 95 % interval, or of its quartiles; all equal where the spread is not known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TextScore:
    """How well a text is predicted: perplexity per token, and bits per byte, which tokenizers do not change."""

    perplexity: Interval
    bits_per_byte: Interval
    num_tokens: int | None


@dataclass(frozen=True)
class TaskScore:
    """A task's figure as a fraction, and the rows that were asked."""

    metric: str
    score: Interval
    num_rows: int | None


@dataclass(frozen=True)
class Quality:
    """An ``eval.json``.

    Attributes:
        parameters: of the model.
        tokenizer: its hash.
        texts: name of text and window -> score.
        tasks: name -> score, the suite's mean under the suite's name.
        options: when and how it was measured.
    """

    parameters: int
    tokenizer: str
    texts: Mapping[str, TextScore]
    tasks: Mapping[str, TaskScore]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Speed:
    """One model's entry of a ``bench.json``.

    Attributes:
        ratios: prefill, decode and time to first token against the first model of the file, repeat by repeat; None
            for the first model itself.
        first_parameters: parameters of that first model.
        device: where.
        options: how it was measured.
    """

    model: str
    parameters: int
    bytes_on_disk: int
    peak_bytes: int
    flops_per_token: int
    prefill: Interval
    decode: Interval
    first_token_ms: Interval
    ratios: Mapping[str, Interval] | None
    first_parameters: int
    device: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Corruption:
    """Bits per byte of corrupted text, of the pruned model and of the dense one."""

    name: str
    pruned: float
    dense: float


@dataclass(frozen=True)
class Sample:
    """What two models make of a prompt."""

    prompt: str
    pruned: str
    dense: str


@dataclass(frozen=True)
class Comparison:
    """A ``compare.json``."""

    against: str
    cka: tuple[float, ...]
    kl_nats_per_token: float | None
    top1_agreement: float | None
    robustness: tuple[Corruption, ...]
    samples: tuple[Sample, ...]


def quality(content: Mapping[str, Any]) -> Quality:
    """Read an ``eval.json``."""
    results = content["results"]
    rows, conditions = content.get("n-samples", {}), content.get("configs", {})
    return Quality(
        parameters=int(content["parameters"]),
        tokenizer=str(content["tokenizer"]),
        texts={
            name: _text(entry, conditions.get(name, {}))
            for name, entry in results.items()
            if "perplexity,none" in entry
        },
        tasks={
            name: score
            for name, entry in results.items()
            if "perplexity,none" not in entry and (score := _task(entry, rows.get(name))) is not None
        },
        options={"date": content.get("date"), **(content.get("config") or {})},
    )


def _text(entry: Mapping[str, Any], conditions: Mapping[str, Any]) -> TextScore:
    """The interval of a perplexity is that of its logarithm: it is not symmetric."""
    nll = _interval(entry["nll_per_token,none"], entry.get("nll_per_token_stderr,none"))
    return TextScore(
        Interval(float(entry["perplexity,none"]), math.exp(nll.low), math.exp(nll.high)),
        _interval(entry["bits_per_byte,none"], entry.get("bits_per_byte_stderr,none")),
        int(conditions["num_tokens"]) if "num_tokens" in conditions else None,
    )


def _task(entry: Mapping[str, Any], rows: Mapping[str, Any] | None) -> TaskScore | None:
    figures = {key: value for key, value in entry.items() if isinstance(value, (int, float)) and "," in key}
    for metric in METRICS:
        for key, value in figures.items():
            name, _, filtered = key.partition(",")
            if name == metric:
                interval = _interval(value, entry.get(f"{name}_stderr,{filtered}"))
                share = Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high))
                return TaskScore(metric, share, int(rows["effective"]) if rows else None)
    return None


def _interval(value: Any, stderr: Any) -> Interval:
    """Of 95 %; lm-evaluation-harness writes "N/A" where there is no standard error."""
    half = Z_95 * float(stderr) if isinstance(stderr, (int, float)) else 0.0
    return Interval(float(value), float(value) - half, float(value) + half)


def speeds(content: Mapping[str, Any]) -> list[Speed]:
    """Read a ``bench.json``."""
    models = content["models"]
    first_parameters = int(models[0]["parameters"])
    return [
        Speed(
            model=str(entry["model"]),
            parameters=int(entry["parameters"]),
            bytes_on_disk=int(entry["bytes_on_disk"]),
            peak_bytes=int(entry["peak_bytes"]),
            flops_per_token=int(entry["flops_per_token"]),
            prefill=_spread(entry["prefill_tokens_per_s"]),
            decode=_spread(entry["decode_tokens_per_s"]),
            first_token_ms=_spread(entry["time_to_first_token_ms"]),
            ratios={key: _spread(value) for key, value in entry["ratios_to_first"].items()} if index else None,
            first_parameters=first_parameters,
            device=str(content["device"]),
            options={"date": content.get("date"), **content["settings"]},
        )
        for index, entry in enumerate(models)
    ]


def _spread(value: Mapping[str, Any]) -> Interval:
    return Interval(float(value["median"]), float(value["low"]), float(value["high"]))


def comparison(content: Mapping[str, Any]) -> Comparison:
    """Read a ``compare.json``."""
    return Comparison(
        against=str(content["against"]),
        cka=tuple(float(value) for value in content.get("cka") or ()),
        kl_nats_per_token=_number(content.get("kl_nats_per_token")),
        top1_agreement=_number(content.get("top1_agreement")),
        robustness=tuple(
            Corruption(str(row["corruption"]), float(row["model_bits_per_byte"]), float(row["against_bits_per_byte"]))
            for row in content.get("robustness") or ()
        ),
        samples=tuple(
            Sample(str(row["prompt"]), str(row["model"]), str(row["against"])) for row in content.get("samples") or ()
        ),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
