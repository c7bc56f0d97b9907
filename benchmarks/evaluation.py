"""Perplexity and the seven zero-shot tasks of a real model, dense and pruned, with standard errors.

    python benchmarks/evaluation.py MODEL --calibration c4-sample.jsonl --text wikitext-2-raw.test.txt --task-data tasks

Cells are appended to a JSONL file as they finish and are not run again, so an interrupted run goes on where it was. The
table is written beside it. Tasks are answered on their first rows, the same for every model: differences between models
are paired, and surer than the errors of single figures say.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from slimgpt import PruneConfig, prune
from slimgpt.config import EvalConfig
from slimgpt.evaluation import evaluate, suite

HEADS = {
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "openbookqa": "OBQA",
}


@dataclass(frozen=True)
class Options:
    """Run the cells that are missing, then write the table."""

    model: Annotated[str, Positional]
    calibration: str
    text: str
    task_data: str
    out: Path = Path("benchmarks/results/evaluation.jsonl")
    ratios: tuple[float, ...] = (0.2, 0.25, 0.33, 0.5)
    solver: str = "obs"
    allocation: str = "log"
    search_cache: str | None = None
    """Folder of the search, for ``--allocation searched``: one serves all ratios."""
    seed: int = 0
    samples: int = 64
    seqlen: int = 512
    """Tokens in a calibration window."""
    windows: tuple[int, ...] = (128, 2048)
    """Tokens in a window of perplexity."""
    max_tokens: int | None = 65536
    """Perplexity on the first tokens of the text; None is all of it."""
    limit: int | None = 200
    """First rows of each task; None is all of them."""
    batch_size: int = 0
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for cell in cells(options):
        if not any(cell.items() <= row.items() for row in done):
            row = {**cell, **measure(options, cell["ratio"])}
            done.append(row)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{cell['ratio']:.0%} removed: {row['seconds']:.0f} s", flush=True)
    options.out.with_suffix(".md").write_text(table(options, done))


def cells(options: Options) -> Iterator[dict[str, Any]]:
    """A cell is one model; whatever changes its figures is part of its name, so that no table mixes conditions."""
    fixed = ("solver", "allocation", "seed", "samples", "seqlen", "max_tokens", "limit")
    conditions = {key: value for key, value in asdict(options).items() if key in fixed}
    for ratio in (0.0, *options.ratios):
        yield {"ratio": ratio, "windows": list(options.windows), **conditions}


def measure(options: Options, ratio: float) -> dict[str, Any]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = pruned(options, ratio, f"{folder}/pruned") if ratio else options.model
        config = EvalConfig(
            model,
            text=options.text,
            seqlen=options.windows,
            max_tokens=options.max_tokens,
            suite="slimgpt",
            task_data=options.task_data,
            limit=options.limit,
            batch_size=options.batch_size,
        )
        found = evaluate(config).found
    return {
        "parameters": found["parameters"],
        "seconds": time.perf_counter() - start,
        "results": found["results"],
        "rows": {task: found["n-samples"][task]["effective"] for task in suite.METRICS},
        "dtype": found["config"]["dtype"],
        "versions": found["versions"],
    }


def pruned(options: Options, ratio: float, out: str) -> str:
    config = PruneConfig(
        options.model,
        out,
        ratio=ratio,
        solver=options.solver,  # type: ignore[arg-type]
        allocation=options.allocation,
        search_cache=options.search_cache,
        seed=options.seed,
        calibration=options.calibration,
        samples=options.samples,
        seqlen=options.seqlen,
    )
    prune(config)
    return out


def table(options: Options, done: list[dict[str, Any]]) -> str:
    wanted = list(cells(options))
    rows = [row for cell in wanted for row in done if cell.items() <= row.items()]
    text = f"first {options.max_tokens:,} tokens" if options.max_tokens else "the whole text"
    first = f"the first {options.limit:,} rows" if options.limit else "all rows"
    return "\n".join(
        [
            "# Perplexity and tasks, dense and pruned",
            "",
            f"`{options.solver}`, {options.samples} x {options.seqlen} tokens of C4, {options.allocation} allocation, "
            f"no fine-tuning, seed {options.seed}, {rows[0]['dtype']}. {options.note}",
            "",
            f"## {Path(options.text).name}, {text}",
            "",
            "Windows that do not overlap, no beginning-of-sequence token; ± is one standard error over tokens.",
            "",
            *perplexities(options, rows),
            "",
            "## The paper's seven tasks, zero-shot, by lm-evaluation-harness",
            "",
            f"Accuracy in per cent on {first} of each task, the same rows for every model; normalised by the answer's "
            "length but for BoolQ and WinoGrande. ± is one standard error over rows, which in differences between "
            "models partly cancels.",
            "",
            *accuracies(rows),
            "",
        ]
    )


def perplexities(options: Options, rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = [f"{kind} at {seqlen}" for kind in ("perplexity", "bits per byte") for seqlen in options.windows]
    yield f"| removed | parameters | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 2) + "|"
    for row in rows:
        names = [f"{Path(options.text).stem}@{seqlen}" for seqlen in options.windows]
        figures = [figure(row["results"][name], "perplexity", 1, 2) for name in names]
        figures += [figure(row["results"][name], "bits_per_byte", 1, 3) for name in names]
        yield f"| {row['ratio']:.0%} | {row['parameters']:,} | {' | '.join(figures)} |"


def accuracies(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"| removed | {' | '.join(HEADS.values())} | mean |"
    yield "|---" * (len(HEADS) + 2) + "|"
    for row in rows:
        figures = [figure(row["results"][task], suite.METRICS[task], 100, 1) for task in HEADS]
        mean = figure(row["results"][suite.NAME], "acc", 100, 1)
        yield f"| {row['ratio']:.0%} | {' | '.join(figures)} | **{mean}** |"
    counts = [f"{rows[0]['rows'][task]:,}" for task in HEADS]
    yield f"| rows | {' | '.join(counts)} | |"


def figure(entry: dict[str, float], metric: str, scale: float, digits: int) -> str:
    value, error = entry[f"{metric},none"] * scale, entry[f"{metric}_stderr,none"] * scale
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


if __name__ == "__main__":
    main(tyro.cli(Options))
