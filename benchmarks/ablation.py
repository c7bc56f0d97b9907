"""Where to cut and what to repair: perplexity of one model by method, at equal parameters and equal calibration.

    python benchmarks/ablation.py MODEL --calibration c4-train.jsonl --held-out c4-held-out.txt \\
        --text wikitext-2-raw.valid.txt

Choices between methods are made on these texts, so name validation texts here, never the test text that results are
quoted on. Cells are appended to a JSONL file as they finish and are not run again.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from transformers import AutoConfig
from tyro.conf import Positional

from slimgpt import PruneConfig, load_model, perplexity, prune
from slimgpt.evaluation import read_text

METHODS: dict[str, dict[str, Any]] = {
    "the paper": {"solver": "slimgpt", "allocation": "log"},
    "exact solver, log curve": {"allocation": "log"},
    "exact solver, uniform": {"allocation": "uniform"},
    "exact solver, uniform, ends exempt": {"allocation": "ends exempt"},
    "exact solver, searched": {"allocation": "searched"},
    "exact solver, log curve, query heads too": {"allocation": "log", "attention_units": "queries"},
    "exact solver, searched, query heads too": {"allocation": "searched", "attention_units": "queries"},
    "exact solver, log curve, errors corrected": {"allocation": "log", "correct_errors": True},
    "exact solver, searched, errors corrected": {"allocation": "searched", "correct_errors": True},
    "exact solver, searched, in two steps": {"allocation": "searched", "steps": 2},
    "searched, query heads too, in two steps": {"allocation": "searched", "attention_units": "queries", "steps": 2},
    "all together": {"allocation": "searched", "attention_units": "queries", "steps": 2, "correct_errors": True},
    "exact solver, log curve, the model's own text": {"allocation": "log", "calibration": "self"},
}
"""Options of ``slimgpt prune``; ``steps`` prunes so many times, each time by an equal part of the ratio."""

EXEMPT_FIRST, EXEMPT_LAST = 4, 3
"""Layers that *ends exempt* leaves whole, as LLM-Pruner does (https://arxiv.org/abs/2305.11627)."""


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
    with tempfile.TemporaryDirectory() as work:
        for cell in cells(options):
            if not any(cell.items() <= row.items() for row in done):
                done.append({**cell, **measure(options, cell, texts, Path(work))})
                with options.out.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    options.out.with_suffix(".md").write_text(table(options, done))


def cells(options: Options) -> Iterator[dict[str, Any]]:
    yield {"method": "dense", "ratio": 0.0, "seed": 0}
    for seed in options.seeds:
        for ratio in options.ratios:
            for method in options.methods:
                yield {"method": method, "ratio": ratio, "seed": seed}


def measure(options: Options, cell: dict[str, Any], texts: dict[str, str], work: Path) -> dict[str, Any]:
    if cell["method"] == "dense":
        return perplexities(options, options.model, texts)
    with tempfile.TemporaryDirectory() as folder:
        records = [prune(config).record for config in steps(options, cell, Path(folder), work)]
        seconds = [record["cost"]["seconds"] for record in records]
        return {
            "parameters": records[-1]["parameters"]["after"],
            "seconds": sum(sum(stages.values()) for stages in seconds),
            "search_seconds": sum(stages.get("search", 0.0) for stages in seconds),
            **perplexities(options, str(Path(folder) / str(len(records))), texts),
        }


def steps(options: Options, cell: dict[str, Any], folder: Path, work: Path) -> Iterator[PruneConfig]:
    """The runs of ``slimgpt prune`` that make a cell's model; searches of the dense model are shared by all cells."""
    settings = {"calibration": options.calibration, **METHODS[cell["method"]]}
    num_steps = settings.pop("steps", 1)
    if settings["allocation"] == "ends exempt":
        settings["allocation"] = str(ends_exempt(options.model, work))
    for step in range(1, num_steps + 1):
        left_before, left = (1 - cell["ratio"] * done / num_steps for done in (step - 1, step))
        shared = settings["allocation"] == "searched" and step == 1
        yield PruneConfig(
            options.model if step == 1 else str(folder / str(step - 1)),
            str(folder / str(step)),
            ratio=1 - left / left_before,
            seed=cell["seed"],
            samples=options.samples,
            seqlen=options.seqlen,
            search_cache=str(work / f"search-{cell['seed']}") if shared else None,
            **settings,
        )


def ends_exempt(model: str, work: Path) -> Path:
    """An allocation file: one ratio for all layers but the first and the last ones."""
    num_layers = AutoConfig.from_pretrained(model).num_hidden_layers
    path = work / "ends-exempt.json"
    middle = range(EXEMPT_FIRST, num_layers - EXEMPT_LAST)
    path.write_text(json.dumps([1.0 if layer in middle else 0.0 for layer in range(num_layers)]))
    return path


def perplexities(options: Options, model: str, texts: dict[str, str]) -> dict[str, float]:
    loaded, tokenizer = load_model(model)
    return {
        name: perplexity(loaded, tokenizer, text, options.window, options.max_tokens).perplexity
        for name, text in texts.items()
    }


def table(options: Options, rows: list[dict[str, Any]]) -> str:
    dense = next(row for row in rows if row["method"] == "dense")
    ratios = sorted(options.ratios)
    lines = [
        "# Perplexity by method",
        "",
        f"{Path(options.text).name} / {Path(options.held_out).name}, first {options.max_tokens:,} tokens of each, "
        f"windows of {options.window}; calibration {options.samples} x {options.seqlen} tokens, no fine-tuning. "
        f"Geometric mean over seeds (their number in brackets). *Cut*: how much smaller the log-perplexity gap to the "
        f"dense model is than the paper's method leaves it, over the same seeds. {options.note}",
        "",
        f"Dense: {dense['text']:.2f} / {dense['held_out']:.2f}.",
        "",
        "| method | " + " | ".join(f"{ratio:.0%} | cut" for ratio in ratios) + " |",
        "|---|" + "---|---|" * len(ratios),
    ]
    for method in options.methods:
        entries = [text for ratio in ratios for text in entry(rows, method, ratio, dense)]
        lines.append(f"| {method} | " + " | ".join(entries) + " |")
    return "\n".join(lines) + "\n"


def entry(rows: list[dict[str, Any]], method: str, ratio: float, dense: dict[str, Any]) -> tuple[str, str]:
    """Perplexities of one method at one ratio, and what it cuts of the paper's gap."""
    ours, papers = (
        {row["seed"]: row for row in rows if row["method"] == name and row["ratio"] == ratio}
        for name in (method, "the paper")
    )
    if not ours:
        return "not run", ""
    found = [log_mean(ours.values(), name) for name in ("text", "held_out")]
    figures = " / ".join(f"{math.exp(value):,.1f}" for value in found) + f" ({len(ours)})"
    shared = ours.keys() & papers.keys()
    if method == "the paper" or not shared:
        return figures, ""
    cuts = []
    for name in ("text", "held_out"):
        mine, theirs = (log_mean([cells[seed] for seed in shared], name) for cells in (ours, papers))
        cuts.append(f"{(theirs - mine) / (theirs - math.log(dense[name])):.0%}")
    return figures, " / ".join(cuts)


def log_mean(rows: Iterable[dict[str, Any]], name: str) -> float:
    return statistics.mean(math.log(row[name]) for row in rows)


if __name__ == "__main__":
    main(tyro.cli(Options))
