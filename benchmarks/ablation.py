"""Where to cut and what to repair: perplexity of one model by method, at equal parameters and equal calibration.

    python benchmarks/ablation.py MODEL --calibration c4-train.jsonl --held-out c4-held-out.txt \\
        --text wikitext-2-raw.valid.txt

Choices between methods are made on these texts, so name validation texts here, never the test text that results are
quoted on. Cells are appended to a JSONL file as they finish and are not run again.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from slimgpt import PruneConfig, load_model, perplexity, prune
from slimgpt.evaluation import read_text

METHODS: dict[str, dict[str, Any]] = {
    "the paper": {"solver": "slimgpt", "allocation": "log"},
    "exact solver, log curve": {"allocation": "log"},
    "exact solver, uniform": {"allocation": "uniform"},
    "exact solver, searched": {"allocation": "searched"},
    "exact solver, log curve, query heads too": {"allocation": "log", "attention_units": "queries"},
    "exact solver, searched, query heads too": {"allocation": "searched", "attention_units": "queries"},
    "exact solver, log curve, errors corrected": {"allocation": "log", "correct_errors": True},
    "exact solver, searched, errors corrected": {"allocation": "searched", "correct_errors": True},
    "exact solver, log curve, the model's own text": {"allocation": "log", "calibration": "self"},
}


@dataclass(frozen=True)
class Options:
    """Run the cells that are missing, then write the table."""

    model: Annotated[str, Positional]
    calibration: str
    held_out: str
    """Text of the calibration's kind that is not in it."""
    text: str
    """Text of another kind."""
    methods: tuple[str, ...] = tuple(METHODS)
    out: Path = Path("benchmarks/results/ablation.jsonl")
    ratios: tuple[float, ...] = (0.25, 0.5)
    seeds: tuple[int, ...] = (0, 1)
    samples: int = 64
    seqlen: int = 512
    window: int = 512
    max_tokens: int = 16384
    """Evaluate on the first tokens of either text."""
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    texts = {"held_out": read_text(options.held_out), "text": read_text(options.text)}
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for cell in cells(options):
        if not any(cell.items() <= row.items() for row in done):
            done.append({**cell, **measure(options, cell, texts)})
            with options.out.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    options.out.with_suffix(".md").write_text(table(options, done))


def cells(options: Options) -> Iterator[dict[str, Any]]:
    yield {"method": "dense", "ratio": 0.0, "seed": 0}
    for seed in options.seeds:
        for ratio in options.ratios:
            for method in options.methods:
                yield {"method": method, "ratio": ratio, "seed": seed}


def measure(options: Options, cell: dict[str, Any], texts: dict[str, str]) -> dict[str, float]:
    if cell["method"] == "dense":
        return perplexities(options, options.model, texts)
    with tempfile.TemporaryDirectory() as folder:
        config = PruneConfig(
            options.model,
            f"{folder}/pruned",
            ratio=cell["ratio"],
            seed=cell["seed"],
            samples=options.samples,
            seqlen=options.seqlen,
            **{"calibration": options.calibration, **METHODS[cell["method"]]},
        )
        record = prune(config).record
        seconds = record["cost"]["seconds"]
        return {
            "parameters": record["parameters"]["after"],
            "seconds": sum(seconds.values()),
            "search_seconds": seconds.get("search", 0.0),
            **perplexities(options, f"{folder}/pruned", texts),
        }


def perplexities(options: Options, model: str, texts: dict[str, str]) -> dict[str, float]:
    loaded, tokenizer = load_model(model)
    return {
        name: perplexity(loaded, tokenizer, text, options.window, options.max_tokens).perplexity
        for name, text in texts.items()
    }


def table(options: Options, rows: list[dict[str, Any]]) -> str:
    dense = next(row for row in rows if row["method"] == "dense")
    lines = [
        "# Perplexity by method",
        "",
        f"{Path(options.text).name} / {Path(options.held_out).name}, first {options.max_tokens:,} tokens of each, "
        f"windows of {options.window}; calibration {options.samples} x {options.seqlen} tokens, no fine-tuning. Mean "
        f"over seeds (their number in brackets). {options.note}",
        "",
        f"Dense: {dense['text']:.2f} / {dense['held_out']:.2f}.",
        "",
        "| method | " + " | ".join(f"{ratio:.0%}" for ratio in sorted(options.ratios)) + " |",
        "|---|" + "---|" * len(options.ratios),
    ]
    for method in options.methods:
        lines.append(f"| {method} | " + " | ".join(entry(rows, method, r) for r in sorted(options.ratios)) + " |")
    return "\n".join(lines) + "\n"


def entry(rows: list[dict[str, Any]], method: str, ratio: float) -> str:
    found = [row for row in rows if row["method"] == method and row["ratio"] == ratio]
    if not found:
        return "not run"
    text, held_out = (statistics.mean(row[name] for row in found) for name in ("text", "held_out"))
    return f"{text:,.1f} / {held_out:,.1f} ({len(found)})"


if __name__ == "__main__":
    main(tyro.cli(Options))
