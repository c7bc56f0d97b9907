"""What ``slimgpt recover --compile`` gains: seconds a step with it and without it, in turns.

    python benchmarks/recovery_compile.py PRUNED DENSE --data text.jsonl --work FOLDER

Every run distils by recipes/recover-distill.yaml for a few steps in a process of its own, compiled ones with an empty
cache of torch's in the first round. A run's first steps are left out of its median; what they take beyond it is
compilation and warming up.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

RECIPE = Path(__file__).parents[1] / "recipes" / "recover-distill.yaml"

TIMED = """
import json, sys, time
from slimgpt.config import RecoverConfig, read_recipe
from slimgpt.recovery import recover
from slimgpt.recovery import RecoverObserver

class Watch(RecoverObserver):
    def __init__(self):
        self.times = []
    def planned(self, job):
        self.times.append(time.perf_counter())
    def stepped(self, step):
        self.times.append(time.perf_counter())

options, recipe, out = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
watch = Watch()
recover(RecoverConfig(**(read_recipe(recipe, RecoverConfig) | options)), watch)
with open(out, "w") as file:
    json.dump([after - before for before, after in zip(watch.times, watch.times[1:])], file)
"""


@dataclass(frozen=True)
class Options:
    """Run, then write the table."""

    pruned: Annotated[str, Positional]
    dense: Annotated[str, Positional]
    data: str
    work: Path
    out: Path = Path("benchmarks/results/recovery_compile.md")
    steps: int = 12
    skipped: int = 4
    """First steps of a run that are not in its median."""
    rounds: int = 2
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    cache = options.work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    found = [(run, timed(options, run, cache)) for _ in range(options.rounds) for run in (False, True)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(table(options, found))


def timed(options: Options, compiled: bool, cache: Path) -> list[float]:
    """Seconds of each step of one run; the first has the teacher's and the model's loading in it."""
    out, seconds = options.work / "model", options.work / "seconds.json"
    run = {"model": options.pruned, "out": str(out), "data": options.data, "teacher": options.dense, "force": True}
    run |= {"max_steps": options.steps, "warmup": 2, "eval_every": options.steps, "keep": "last"}
    run |= {"micro_batch_size": 8, "compile": compiled}
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-c", TIMED, json.dumps(run), RECIPE, seconds], check=True, env=environment)
    found: list[float] = json.loads(seconds.read_text())
    print("compiled" if compiled else "as written", [round(step, 2) for step in found], flush=True)
    return found


def table(options: Options, found: list[tuple[bool, list[float]]]) -> str:
    lines = [
        "# Distillation with compiled layers",
        "",
        f"Seconds a step of 8 rows of 256 tokens, in one pass, {options.rounds} runs in turns; median of "
        f"steps {options.skipped + 1} to {options.steps}. *Before*: what the first {options.skipped} steps took beyond "
        "as many medians: loading both models, measuring held-out text, compiling (the second compiled run finds the "
        f"first one's code in torch's cache). {options.note}",
        "",
        "| layers | a step | before |",
        "|---|---:|---:|",
    ]
    medians: dict[bool, list[float]] = {False: [], True: []}
    for compiled, steps in found:
        median = statistics.median(steps[options.skipped :])
        medians[compiled].append(median)
        before = sum(steps[: options.skipped]) - options.skipped * median
        lines.append(f"| {'compiled' if compiled else 'as written'} | {median:.2f} | {before:.0f} |")
    ratio = statistics.median(medians[False]) / statistics.median(medians[True])
    return "\n".join([*lines, "", f"As written a step takes {ratio:.2f} times as long."]) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options))
