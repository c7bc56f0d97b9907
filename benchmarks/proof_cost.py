"""What it costs to prove a finished folder: the share of a prune that goes into it.

    python benchmarks/proof_cost.py MODEL --note "hardware, date"

Every row is a run of ``slimgpt prune`` in a process of its own; the seconds are those of its own record.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

RUNS: dict[str, list[str]] = {
    "the defaults: obs, searched": [],
    "obs, log curve": ["--allocation", "log"],
    "magnitude, log curve": ["--allocation", "log", "--solver", "magnitude"],
}


@dataclass(frozen=True)
class Options:
    """Prune, then write the table."""

    model: Annotated[str, Positional]
    samples: int = 16
    seqlen: int = 512
    out: Path = Path("benchmarks/results/proof_cost.md")
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    records = {name: pruned(options, flags) for name, flags in RUNS.items()}
    options.out.write_text(report(options, records))


def pruned(options: Options, flags: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        size = ["--samples", str(options.samples), "--seqlen", str(options.seqlen)]
        command = [sys.executable, "-m", "slimgpt", "prune", options.model, str(out), "--calibration", "builtin"]
        subprocess.run([*command, *size, *flags], check=True, stdout=subprocess.DEVNULL)
        return dict(json.loads((out / "slimgpt.json").read_text()))


def report(options: Options, records: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# What the proof of a finished folder costs",
        "",
        f"`slimgpt prune` of {Path(options.model).stem}, {options.samples} windows of {options.seqlen} tokens, by the "
        f"seconds of its own record. {options.note}",
        "",
        "| run | seconds | of them the proof | share | the folder was opened | largest difference of a logit |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for name, record in records.items():
        seconds, proof = record["cost"]["seconds"], record["proof"]
        whole = sum(seconds.values())
        lines.append(
            f"| {name} | {whole:,.1f} | {seconds['prove']:.1f} | {seconds['prove'] / whole:.1%} | {proof['forward']} | "
            f"{max(proof['differences'].values()):.1e} of their range |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options))
