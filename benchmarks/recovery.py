"""What recovery gives back to a real model: LoRA on instructions, distillation on C4, and the dense model as control.

    python benchmarks/recovery.py MODEL --calibration c4-sample.jsonl --instructions alpaca-sample.jsonl \\
        --texts wikitext-2-raw.test.txt c4-held-out.txt --task-data tasks --work FOLDER

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
    texts: tuple[str, ...]
    """Held-out texts for perplexity."""
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
    long_epochs: float = 1.0
    """Passes over the data in it."""
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
    long = ("--max-steps", str(options.long_steps), "--epochs", str(options.long_epochs), "--compile")
    long += ("--mix", options.instructions, "--mix-share", str(options.mix_share)) if options.mix_share else ()
    apart = ("--micro-batch-size", "8")
    joined = ("--join-texts", "--seqlen", "512", "--batch-size", "4", "--micro-batch-size", "4", "--extrapolate")
    teacher = ("--teacher", options.model)
    lora, distill = "recover-lora.yaml", "recover-distill.yaml"
    return [
        Cell("dense"),
        Cell("pruned", start="dense"),
        Cell("pruned, LoRA on instructions", "pruned", lora, options.instructions, equal),
        Cell("dense, LoRA on instructions", "dense", lora, options.instructions, equal),
        Cell("pruned, distilled, equal steps", "pruned", distill, options.calibration, (*teacher, *equal)),
        Cell("dense, distilled, equal steps", "dense", distill, options.calibration, (*teacher, *equal)),
        Cell("pruned, distilled", "pruned", distill, options.calibration, (*teacher, *long, *apart)),
        Cell("dense, distilled", "dense", distill, options.calibration, (*teacher, *long, *apart)),
        Cell(
            "pruned, distilled, joined, extrapolated",
            "pruned",
            distill,
            options.calibration,
            (*teacher, *long, *joined),
        ),
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
        "extrapolated_to",
        "device",
    )
    passes = entry["steps"] * entry["options"]["batch_size"] / entry["rows"]
    return {key: entry[key] for key in kept} | {"passes": round(passes, 4)}


def measured(options: Options, cell: Cell) -> dict[str, Any]:
    """Perplexities and the suite's accuracies of the cell's model."""
    found: dict[str, dict[str, float]] = {}
    suite: list[object] = ["--suite", "slimgpt"] if options.suite else []
    suite += ["--task-data", options.task_data] if options.task_data else []
    suite += ["--limit", options.limit] if options.limit else []
    for text in options.texts:
        file = options.work / f"{Path(folder(options, cell.name)).name}.{Path(text).stem}.eval.json"
        if not file.exists():
            flags: list[object] = ["--text", text, "--seqlen", *WINDOWS, "--json", file]
            flags += ["--max-tokens", options.max_tokens] if options.max_tokens else []
            slimgpt("eval", folder(options, cell.name), *flags, *(suite if text == options.texts[0] else []))
        found |= json.loads(file.read_text())["results"]
    perplexities = {key: found[key]["perplexity,none"] for key in places(options)}
    accuracies = {name: entry["acc,none"] for name, entry in found.items() if "acc,none" in entry}
    return {"perplexity": perplexities, "accuracy": accuracies}


def places(options: Options) -> list[str]:
    """What perplexity is measured on: each text in each window."""
    return [f"{Path(text).stem}@{window}" for text in options.texts for window in WINDOWS]


def slimgpt(*arguments: object, processes: int = 1) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launcher = torchrun if processes > 1 else []
    subprocess.run([sys.executable, *launcher, "-m", "slimgpt", *map(str, arguments)], check=True)


def table(options: Options, rows: Sequence[dict[str, Any]]) -> str:
    tasks = list(rows[0]["accuracy"])
    header = ["", *places(options), "steps", "tokens", "minutes", "CPU minutes", *tasks]
    lines = [
        "# Recovery",
        "",
        f"A model pruned by {options.ratio:.0%}, and what training gives back. Perplexity by text and window"
        f"{f' (first {options.max_tokens:,} tokens)' if options.max_tokens else ''}, and how much of the gap in "
        "log-perplexity between dense and pruned is closed. Tasks: "
        f"{f'first {options.limit} rows of each' if options.limit else 'all rows'}, "
        f"accuracy. LoRA is the paper's recipe with {options.steps} steps of {options.batch_size} rows in place of an "
        f"epoch in batches of 64. Pruned with --allocation {options.allocation}, {options.samples} windows of "
        f"{options.seqlen} tokens. Minutes: the whole of slimgpt recover, the teacher's reading and the measuring of "
        f"held-out text included. {options.note}",
        "",
        "| " + " | ".join(header) + " |",
        "|---|" + "---:|" * (len(header) - 1),
    ]
    return "\n".join([*lines, *("| " + " | ".join(line(options, row, rows)) + " |" for row in rows)]) + "\n"


def line(options: Options, row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    seconds = sum(row["seconds"].values()) if "seconds" in row else None
    return [
        row["cell"],
        *(f"{row['perplexity'][place]:.2f}{gap_closed(row, rows, place)}" for place in places(options)),
        f"{row['steps']:,}" if "steps" in row else "",
        f"{row['tokens'] * row['passes']:,.0f}" if "tokens" in row else "",
        f"{seconds / 60:.1f}" if seconds else "",
        f"{row['cpu_seconds'] / 60:.1f}" if seconds else "",
        *(f"{accuracy:.3f}" for accuracy in row["accuracy"].values()),
    ]


def gap_closed(row: dict[str, Any], rows: Sequence[dict[str, Any]], place: str) -> str:
    ends = ("dense", "pruned")
    dense, pruned = (next(math.log(r["perplexity"][place]) for r in rows if r["cell"] == name) for name in ends)
    closed = (pruned - math.log(row["perplexity"][place])) / (pruned - dense)
    return "" if row["cell"] in ends else f" ({closed:.0%})"


if __name__ == "__main__":
    main(tyro.cli(Options))
