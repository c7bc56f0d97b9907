"""Perplexity of a real model pruned by every solver: equal parameters, equal calibration, one run.

    python benchmarks/solvers_end_to_end.py MODEL --calibration c4-sample.jsonl --text wikitext-2-raw.test.txt

Cells are appended to a JSONL file as they finish and are not run again, so an interrupted run goes on where it was. The
table is written beside it.
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

SOLVERS = ("obs", "slimgpt", "wanda", "magnitude", "random")


@dataclass(frozen=True)
class Options:
    """Run the cells that are missing, then write the table."""

    model: Annotated[str, Positional]
    calibration: str
    text: str
    out: Path = Path("benchmarks/results/solvers_end_to_end.jsonl")
    ratios: tuple[float, ...] = (0.25, 0.5, 0.2, 0.33)
    solvers: tuple[str, ...] = SOLVERS
    seeds: tuple[int, ...] = (0, 1)
    samples: int = 64
    seqlen: int = 512
    max_tokens: int = 8192
    """Evaluate on the first tokens of the text, at windows of 128 and of 2048."""
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    text = read_text(options.text)
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for cell in cells(options):
        if not any(cell.items() <= row.items() for row in done):
            row = {**cell, **measure(options, cell, text)}
            done.append(row)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    options.out.with_suffix(".md").write_text(table(options, done))


def cells(options: Options) -> Iterator[dict[str, Any]]:
    yield {"solver": "dense", "ratio": 0.0, "seed": 0}
    for ratio in options.ratios:
        for seed in options.seeds:
            for solver in options.solvers:
                yield {"solver": solver, "ratio": ratio, "seed": seed}


def measure(options: Options, cell: dict[str, Any], text: str) -> dict[str, Any]:
    if cell["solver"] == "dense":
        return perplexities(options.model, text, options.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        config = PruneConfig(
            options.model,
            f"{folder}/pruned",
            ratio=cell["ratio"],
            solver=cell["solver"],
            allocation="log",
            seed=cell["seed"],
            calibration=options.calibration,
            samples=options.samples,
            seqlen=options.seqlen,
        )
        result = prune(config)
        return {
            "parameters": result.record["parameters"]["after"],
            "seconds": sum(result.record["cost"]["seconds"].values()),
            **perplexities(f"{folder}/pruned", text, options.max_tokens),
        }


def perplexities(model: str, text: str, max_tokens: int) -> dict[str, float]:
    loaded, tokenizer = load_model(model)
    return {
        f"perplexity_{seqlen}": perplexity(loaded, tokenizer, text, seqlen, max_tokens).perplexity
        for seqlen in (128, 2048)
    }


def table(options: Options, rows: list[dict[str, Any]]) -> str:
    dense = next(row for row in rows if row["solver"] == "dense")
    lines = [
        "# Perplexity by solver",
        "",
        f"WikiText-2 test, first {options.max_tokens:,} tokens, windows of 128 / 2048; calibration "
        f"{options.samples} x {options.seqlen} tokens of C4, log allocation, no fine-tuning. Mean over seeds "
        f"(their number in brackets); parameters are equal within a column. {options.note}",
        "",
        f"Dense: {dense['perplexity_128']:.2f} / {dense['perplexity_2048']:.2f}.",
        "",
        "| solver | " + " | ".join(f"{ratio:.0%}" for ratio in sorted(options.ratios)) + " |",
        "|---|" + "---|" * len(options.ratios),
    ]
    for solver in options.solvers:
        lines.append(f"| {solver} | " + " | ".join(entry(rows, solver, r) for r in sorted(options.ratios)) + " |")
    return "\n".join(lines) + "\n"


def entry(rows: list[dict[str, Any]], solver: str, ratio: float) -> str:
    found = [row for row in rows if row["solver"] == solver and row["ratio"] == ratio]
    if not found:
        return "not run"
    short, long = (statistics.mean(row[f"perplexity_{seqlen}"] for row in found) for seqlen in (128, 2048))
    return f"{short:,.1f} / {long:,.1f} ({len(found)})"


if __name__ == "__main__":
    main(tyro.cli(Options))
