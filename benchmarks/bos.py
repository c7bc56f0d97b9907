"""The beginning-of-sequence token: a model calibrated with it and without it, read with it and without it.

    python benchmarks/bos.py --models gemma=gemma-3-270m.gguf smollm2=smollm2.gguf --calibration c4-sample.jsonl \\
        --text wikitext-2-raw.valid.txt

And whether the token's own position should count in the statistics that choose and repair: attention rests there, and
some layers have inputs there that are a thousand times larger than elsewhere. Leaving it out is tried here alone.

Measurements are appended to a JSONL file as they finish and are not made again; the table is written beside it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import tyro
from torch import Tensor

from slimgpt import PruneConfig, load_model, perplexity, prune
from slimgpt.evaluation import read_text
from slimgpt.solvers.stats import InputStats

WAYS = {"dense": None, "without": "never", "with": "always", "with, its position left out": "always"}
"""How a model was calibrated -> ``--bos`` of that."""
READ = {"without": "never", "with": "always"}


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then write the table."""

    models: tuple[str, ...]
    """NAME=FOLDER or NAME=FILE.gguf."""
    calibration: str
    text: str
    out: Path = Path("benchmarks/results/bos.jsonl")
    ratio: float = 0.1
    allocation: str = "log"
    samples: int = 32
    seqlen: int = 512
    max_tokens: int = 2048
    """Evaluate on the first tokens of the text."""
    seeds: tuple[int, ...] = (0,)
    ways: tuple[str, ...] = tuple(WAYS)
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    text = read_text(options.text)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for given in options.models:
        name, path = given.split("=", 1)
        for way in options.ways:
            for seed in options.seeds if WAYS[way] else (0,):
                cell = {"model": name, "calibrated": way, "seed": seed}
                cell |= {"ratio": options.ratio, "allocation": options.allocation} if WAYS[way] else {}
                if not any(cell.items() <= row.items() for row in rows):
                    rows.append({**cell, **measure(options, path, cell, text)})
                    with options.out.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                    print(rows[-1], flush=True)
    options.out.with_suffix(".md").write_text(table(options, rows))


def measure(options: Options, path: str, cell: dict[str, Any], text: str) -> dict[str, float]:
    """Perplexity both ways of the dense model, or of one calibrated as the cell says."""
    with tempfile.TemporaryDirectory() as folder:
        bos = WAYS[cell["calibrated"]]
        if bos is None:
            return both_ways(options, load_model(path), text)
        config = PruneConfig(
            path,
            f"{folder}/pruned",
            ratio=options.ratio,
            allocation=options.allocation,
            calibration=options.calibration,
            samples=options.samples,
            seqlen=options.seqlen,
            seed=cell["seed"],
            bos=bos,
        )
        with first_left_out(options.seqlen, cell["calibrated"].endswith("left out")):
            prune(config)
        return both_ways(options, load_model(config.out), text)


def both_ways(options: Options, loaded: tuple[Any, Any], text: str) -> dict[str, float]:
    return {
        f"read {way}": perplexity(*loaded, text, options.seqlen, options.max_tokens, bos=bos).perplexity
        for way, bos in READ.items()
    }


@contextmanager
def first_left_out(seqlen: int, yes: bool) -> Iterator[None]:
    """Inside, statistics are taken without the first position of every window."""
    update = InputStats.update

    def without_first(self: InputStats, x_TI: Tensor) -> None:
        update(self, x_TI.view(-1, seqlen, x_TI.shape[-1])[:, 1:].flatten(0, 1))

    with mock.patch.object(InputStats, "update", without_first if yes else update):
        yield


def table(options: Options, rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "# With and without the beginning-of-sequence token",
        "",
        f"{Path(options.text).name}, perplexity on the first {options.max_tokens:,} tokens in windows of "
        f"{options.seqlen} (with the token: itself and {options.seqlen - 1}); calibration {options.samples} x "
        f"{options.seqlen} tokens of C4, solver obs, no fine-tuning. {options.note}",
        "",
        "| model | removed | allocation | calibrated | seed | read without the token | read with it |",
        "|---|---:|---|---|---:|---:|---:|",
    ]
    for row in rows:
        removed, allocation = (f"{row['ratio']:.0%}", row["allocation"]) if "ratio" in row else ("0%", "")
        cells = (row["model"], removed, allocation, row["calibrated"], str(row["seed"]))
        lines.append(f"| {' | '.join(cells)} | {row['read without']:.2f} | {row['read with']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options))
