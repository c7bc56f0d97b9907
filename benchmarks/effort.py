"""What an effort buys: quality and seconds of ``slimgpt prune --effort low|medium|high`` at one size.

    python benchmarks/effort.py MODEL --calibration c4-train.jsonl --held-out c4-held-out.txt \\
        --text wikitext-2-raw.valid.txt --work FOLDER --note "hardware, date"

Measurements are appended to a JSONL file as they finish and are not made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from slimgpt import PruneConfig, load_model, perplexity, prune
from slimgpt.evaluation import read_text

DENSE = {"effort": "dense", "ratio": 0.0, "seed": 0, "samples": 0}
EFFORTS = ("low", "medium", "high")
TEXTS = ("text", "held_out")


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then write the table of what has been measured."""

    model: Annotated[str, Positional]
    calibration: str
    held_out: str
    """Text of the calibration's kind that is not in it."""
    text: str
    """Text of another kind."""
    work: Path
    """Folder for models."""
    efforts: tuple[str, ...] = EFFORTS
    ratios: tuple[float, ...] = (0.25,)
    seeds: tuple[int, ...] = (0,)
    samples: int = 64
    seqlen: int = 512
    max_tokens: int = 16384
    """Perplexity on the first tokens of each text, in windows of ``seqlen``."""
    out: Path = Path("benchmarks/results/effort.jsonl")
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    done = read(options.out)
    for cell in cells(options):
        if found(done, cell) is None:
            row = {**cell, **measured(options, cell)}
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    options.out.with_suffix(".md").write_text(report(options, read(options.out)))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cells(options: Options) -> Iterator[dict[str, Any]]:
    yield DENSE
    for seed, ratio, effort in product(options.seeds, options.ratios, options.efforts):
        yield {"effort": effort, "ratio": ratio, "seed": seed, "samples": options.samples}


def found(rows: Sequence[dict[str, Any]], cell: Mapping[str, Any]) -> dict[str, Any] | None:
    return next((row for row in rows if cell.items() <= row.items()), None)


def measured(options: Options, cell: Mapping[str, Any]) -> dict[str, Any]:
    path, cost = options.model, {}
    if cell is not DENSE:
        path = str(options.work / f"{cell['effort']}-{cell['ratio']}-{cell['seed']}-{cell['samples']}")
        calibration = {"calibration": options.calibration, "samples": options.samples, "seqlen": options.seqlen}
        own = {name: cell[name] for name in ("effort", "ratio", "seed")}
        record = prune(PruneConfig(options.model, path, resume=True, **own, **calibration)).record
        cost = {"parameters": record["parameters"]["after"], "seconds": record["cost"]["seconds"]}
    model, tokenizer = load_model(path)
    texts = {name: read_text(getattr(options, name)) for name in TEXTS}
    sizes = options.seqlen, options.max_tokens
    return {**cost, **{name: perplexity(model, tokenizer, text, *sizes).perplexity for name, text in texts.items()}}


def report(options: Options, rows: Sequence[dict[str, Any]]) -> str:
    names = " / ".join(Path(getattr(options, name)).name for name in TEXTS)
    dense = found(rows, DENSE)
    lines = [
        "# What an effort buys",
        "",
        f"`slimgpt prune {Path(options.model).name} OUT --ratio R --effort E --samples {options.samples} --seqlen "
        f"{options.seqlen}`. Perplexity on the first {options.max_tokens:,} tokens of {names}, windows of "
        f"{options.seqlen}; seconds by the records. {options.note}",
        "",
        "| ratio | effort | seed | perplexity | parameters | seconds | of them search | training |",
        "|---|---|---|---|---|---:|---:|---:|",
        *([f"| | dense | | {figures(dense)} | | | | |"] if dense else []),
    ]
    known = [row for cell in cells(options) if cell is not DENSE and (row := found(rows, cell)) is not None]
    return "\n".join([*lines, *map(line, known)]) + "\n"


def line(row: Mapping[str, Any]) -> str:
    seconds = row["seconds"]
    parts = [sum(seconds.values()), seconds.get("search", 0.0), seconds.get("train", 0.0)]
    times = " | ".join(f"{part:,.0f}" for part in parts)
    size = f"{row['parameters']:,}"
    return f"| {row['ratio']:.0%} | {row['effort']} | {row['seed']} | {figures(row)} | {size} | {times} |"


def figures(row: Mapping[str, Any]) -> str:
    return " / ".join(f"{row[name]:,.1f}" for name in TEXTS)


if __name__ == "__main__":
    main(tyro.cli(Options))
