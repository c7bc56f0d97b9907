"""What recovery gives back to a real model: LoRA on instructions, distillation on C4, and the dense model as control.

    python benchmarks/recovery.py MODEL --calibration c4-sample.jsonl --instructions alpaca-sample.jsonl \\
        --text wikitext-2-raw.test.txt --task-data tasks --work FOLDER

A cell prunes or trains a model (kept under ``--work``; ``slimgpt recover --resume`` goes on with one that was cut
short) and measures it by ``slimgpt eval``. Cells are appended to a JSONL file as they finish and are not run again, so
an interrupted run goes on where it was. The table is written beside it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

RECIPES = Path(__file__).parents[1] / "recipes"
WINDOWS = (128, 2048)


@dataclass(frozen=True)
class Options:
    """Run the cells that are missing, then write the table."""

    model: Annotated[str, Positional]
    calibration: str
    """Text to prune with and to distil on."""
    instructions: str
    text: str
    """Held-out text for perplexity."""
    work: Path
    """Folder for the models and their evaluations."""
    task_data: str | None = None
    out: Path = Path("benchmarks/results/recovery.jsonl")
    ratio: float = 0.25
    samples: int = 64
    seqlen: int = 512
    """Pruning: calibration windows and their tokens."""
    allocation: str = "searched"
    prune_flags: tuple[str, ...] = ()
    """More flags for ``slimgpt prune``."""
    steps: int = 60
    """Optimiser steps of the LoRA cells, and of the distillation that is compared with them."""
    batch_size: int = 8
    """Rows in a step of those (the paper's 64 would leave 15 steps of a thousand instructions)."""
    long_steps: int = 400
    """Optimiser steps of the recipe's own distillation."""
    mix_share: float = 0.2
    """Share of instructions among their rows; 0 leaves general text alone."""
    max_tokens: int | None = None
    limit: int | None = None
    """Rows of each task."""
    suite: bool = True
    """Measure the seven tasks; off: perplexity alone."""
    processes: int = 1
    """For ``slimgpt recover``, by torchrun; pruning and measuring take one."""
    flags: tuple[str, ...] = ()
    """More flags for every ``slimgpt recover``."""
    note: str = ""
    """Hardware and date, for the table."""


@dataclass(frozen=True)
class Cell:
    """A line of the table.

    Attributes:
        name: what happens to the model.
        start: the cell whose model is trained; None for the one that was given.
        recipe: how; None leaves it as it is.
        data: what it learns from.
        flags: more options.
    """

    name: str
    start: str | None = None
    recipe: str | None = None
    data: str = ""
    flags: tuple[str, ...] = ()


def cells(options: Options) -> list[Cell]:
    equal = ("--max-steps", str(options.steps), "--batch-size", str(options.batch_size), "--warmup", "10")
    equal += ("--eval-every", str(max(1, options.steps // 2)))
    long = ("--max-steps", str(options.long_steps), "--micro-batch-size", "8", "--compile")
    long += ("--mix", options.instructions, "--mix-share", str(options.mix_share)) if options.mix_share else ()
    teacher = ("--teacher", options.model)
    lora, distill = "recover-lora.yaml", "recover-distill.yaml"
    return [
        Cell("dense"),
        Cell("pruned", start="dense"),
        Cell("pruned, LoRA on instructions", "pruned", lora, options.instructions, equal),
        Cell("dense, LoRA on instructions", "dense", lora, options.instructions, equal),
        Cell("pruned, distilled, equal steps", "pruned", distill, options.calibration, (*teacher, *equal)),
        Cell("dense, distilled, equal steps", "dense", distill, options.calibration, (*teacher, *equal)),
        Cell("pruned, distilled", "pruned", distill, options.calibration, (*teacher, *long)),
        Cell("dense, distilled", "dense", distill, options.calibration, (*teacher, *long)),
    ]


def main(options: Options) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for cell in cells(options):
        if any(row["cell"] == cell.name for row in done):
            continue
        row = {"cell": cell.name, **trained(options, cell), **measured(options, cell)}
        done.append(row)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    options.out.with_suffix(".md").write_text(table(options, done))


def folder(options: Options, name: str) -> str:
    """Where a cell's model is."""
    return options.model if name == "dense" else str(options.work / name.replace(", ", "-").replace(" ", "_"))


def trained(options: Options, cell: Cell) -> dict[str, Any]:
    """Make the cell's model if it is not there; what its record says of the making."""
    if cell.start is None:
        return {}
    start, out = folder(options, cell.start), folder(options, cell.name)
    if not Path(out).exists():
        if cell.recipe is None:
            sizes = ["--samples", options.samples, "--seqlen", options.seqlen, "--ratio", options.ratio]
            how = ["--allocation", options.allocation, *options.prune_flags]
            slimgpt("prune", start, out, "--calibration", options.calibration, *sizes, *how, "--resume")
        else:
            how = ["--recipe", RECIPES / cell.recipe, "--data", cell.data, *cell.flags, *options.flags]
            slimgpt("recover", start, out, *how, "--resume", processes=options.processes)
    record = json.loads((Path(out) / "slimgpt.json").read_text())
    if cell.recipe is None:
        return {"parameters": record["parameters"]["after"]}
    entry = record["recovery"][-1]
    kept = (
        "steps",
        "best_step",
        "tokens",
        "learned_tokens",
        "trained_parameters",
        "seconds",
        "cpu_seconds",
        "held_out",
    )
    passes = entry["steps"] * entry["options"]["batch_size"] / entry["rows"]
    return {key: entry[key] for key in (*kept, "device")} | {"passes": round(passes, 4)}


def measured(options: Options, cell: Cell) -> dict[str, Any]:
    """Perplexities and the suite's accuracies of the cell's model."""
    file = options.work / f"{Path(folder(options, cell.name)).name}.eval.json"
    if not file.exists():
        flags: list[object] = ["--text", options.text, "--seqlen", *WINDOWS, "--json", file]
        if options.max_tokens is not None:
            flags += ["--max-tokens", options.max_tokens]
        if options.suite:
            flags += ["--suite", "slimgpt"]
            flags += ["--task-data", options.task_data] if options.task_data else []
            flags += ["--limit", options.limit] if options.limit else []
        slimgpt("eval", folder(options, cell.name), *flags)
    found = json.loads(file.read_text())["results"]
    stem = Path(options.text).stem
    perplexities = {f"perplexity_{window}": found[f"{stem}@{window}"]["perplexity,none"] for window in WINDOWS}
    accuracies = {name: entry["acc,none"] for name, entry in found.items() if "acc,none" in entry}
    return {**perplexities, "accuracy": accuracies}


def slimgpt(*arguments: object, processes: int = 1) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launcher = torchrun if processes > 1 else []
    subprocess.run([sys.executable, *launcher, "-m", "slimgpt", *map(str, arguments)], check=True)


def table(options: Options, rows: Sequence[dict[str, Any]]) -> str:
    tasks = list(rows[0]["accuracy"])
    header = ["", *(f"perplexity at {w}" for w in WINDOWS), *(f"gap closed at {w}" for w in WINDOWS), "steps", "tokens"]
    lines = [
        "# Recovery",
        "",
        f"A model pruned by {options.ratio:.0%}, and what training gives back. WikiText-2 test"
        f"{f', first {options.max_tokens:,} tokens' if options.max_tokens else ''}; gap closed: of the log-perplexity "
        f"between dense and pruned. Tasks: {f'first {options.limit} rows of each' if options.limit else 'all rows'}, "
        f"accuracy. LoRA is the paper's recipe with {options.steps} steps of {options.batch_size} rows in place of an "
        f"epoch in batches of 64. Pruned with --allocation {options.allocation}, {options.samples} windows of "
        f"{options.seqlen} tokens. Minutes: the whole of slimgpt recover, the teacher's reading and the measuring of "
        f"held-out text included. {options.note}",
        "",
        "| " + " | ".join([*header, "minutes", "CPU minutes", *tasks]) + " |",
        "|---|" + "---:|" * (len(header) + 1 + len(tasks)),
    ]
    return "\n".join([*lines, *("| " + " | ".join(line(row, rows, tasks)) + " |" for row in rows)]) + "\n"


def line(row: dict[str, Any], rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> list[str]:
    seconds = sum(row["seconds"].values()) if "seconds" in row else None
    return [
        row["cell"],
        *(f"{row[f'perplexity_{window}']:.2f}" for window in WINDOWS),
        *(gap_closed(row, rows, f"perplexity_{window}") for window in WINDOWS),
        f"{row['steps']:,}" if "steps" in row else "",
        f"{row['tokens'] * row['passes']:,.0f}" if "tokens" in row else "",
        f"{seconds / 60:.1f}" if seconds else "",
        f"{row['cpu_seconds'] / 60:.1f}" if seconds else "",
        *(f"{row['accuracy'][task]:.3f}" for task in tasks),
    ]


def gap_closed(row: dict[str, Any], rows: Sequence[dict[str, Any]], key: str) -> str:
    dense, pruned = (next(math.log(r[key]) for r in rows if r["cell"] == name) for name in ("dense", "pruned"))
    return "" if row["cell"] in ("dense", "pruned") else f"{(pruned - math.log(row[key])) / (pruned - dense):.0%}"


if __name__ == "__main__":
    main(tyro.cli(Options))
