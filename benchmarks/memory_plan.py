"""The memory that a run announces before it starts, beside the most that it has taken when it is over.

    python benchmarks/memory_plan.py --model SmolLM2.gguf                       # all cases of a real model
    python benchmarks/memory_plan.py --shape 1B --layers 2                      # random weights of that shape
    python benchmarks/memory_plan.py --model SmolLM2.gguf --only recover
    python benchmarks/memory_plan.py --model SmolLM2.gguf --samples 32 --only "--ratio 0.2"     # that of make demo

Each case is a command in a process of its own, whose peak is what the system says of it (``ru_maxrss``). The plan is
in the record that the command leaves. ``--float32`` computes as on a CPU that does not multiply bfloat16.

Appends to benchmarks/results/memory_plan.jsonl and writes memory_plan.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import scale

RESULTS = Path(__file__).with_name("results")
PROGRAM = """
import sys
from slimgpt import cli
from slimgpt.machine import devices
if sys.argv[1] == "float32":
    devices._cpu_has_bfloat16 = lambda: False
sys.exit(cli.main(sys.argv[2:]))
"""
CAUGHT = 0.15
RATIO = "0.05"  # less to eliminate takes less time, and no less memory


@dataclass(frozen=True)
class Case:
    """A command: its name and options; ``{dense}`` is the model that others were made from."""

    command: str
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join((self.command, *self.options))


DEMO = ("--ratio", "0.2", "--dtype", "bfloat16")  # of examples/demo.py
PRUNED = [
    ("--allocation", "log"),
    (),
    ("--search-candidates", "6"),
    ("--attention-units", "queries"),
    ("--blocks", "attention,ffn"),
    ("--allocation", "log", "--correct-errors"),
    ("--allocation", "log", "--solver", "slimgpt"),
    ("--solver", "flap"),
    ("--allocation", "log", "--solver", "wanda", "--repair", "True"),
    ("--allocation", "log", "--solver", "magnitude"),
    ("--allocation", "log", "--solver", "random"),
    ("--layout", "uniform"),
    ("--allocation", "log", "--dtype", "bfloat16"),
    ("--allocation", "log", "--offload-dir", "{scratch}/activations"),
    ("--allocation", "log", "--batch-size", "1"),
    DEMO,
]
SPARSE = [
    ("--method", "sparsegpt", "--sparsity", "0.5"),
    ("--method", "wanda", "--pattern", "2:4"),
    ("--method", "magnitude", "--sparsity", "0.5", "--scope", "global"),
    ("--method", "wanda", "--sparsity", "0.5", "--layer-ratios", "owl"),
]
TRAINED = [
    (),
    ("--full",),
    ("--full", "--gradient-checkpointing"),
    ("--full", "--train-embeddings"),
    ("--teacher", "{dense}"),
    ("--teacher", "{dense}", "--full", "--hidden-weight", "1"),
    ("--full", "--extrapolate"),
    ("--precision", "float32"),
    ("--precision", "float32", "--full"),
]
CASES = [
    *(Case("prune", options) for options in PRUNED),
    *(Case("sparsify", options) for options in SPARSE),
    Case("drop", ("--layers", "1")),
    *(Case("recover", options) for options in TRAINED),
]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or GGUF file")
    parser.add_argument("--shape", choices=scale.SHAPES, help="random weights of this shape instead")
    parser.add_argument("--layers", type=int, default=2, help="of the shape")
    parser.add_argument("--text", help="calibration text of the model (default: English that comes with Python)")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "memory-plan")
    options = parser.parse_args(arguments)
    options.scratch.mkdir(parents=True, exist_ok=True)
    model, text = model_and_text(options)
    for case in CASES:
        if options.only in case.name:
            append(measured(case, model, text, options))


def model_and_text(options: Any) -> tuple[str, str]:
    """What every case works on."""
    if options.model:
        return options.model, options.text or "builtin"
    model, text = options.scratch / f"{options.shape}-{options.layers}", options.scratch / "words.txt"
    if not (model / "model.safetensors.index.json").exists():
        scale.alone(scale.build, model, scale.SHAPES[options.shape], options.layers, "cpu")
    scale.write_text(text, 4 * options.samples * options.seqlen)
    return str(model), str(text)


def measured(case: Case, model: str, text: str, options: Any) -> dict[str, Any]:
    """Run the command; the plan and the peak."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        out = Path(scratch) / "out"
        words = [word.format(dense=dense(model, options), scratch=scratch) for word in case.options]
        if case.command == "recover":
            words += ["--data", str(rows(options)), "--max-steps", "3", "--warmup", "1", "--batch-size", "8"]
            words += ["--eval-every", "1", *([] if "--extrapolate" in words else ["--keep", "last"])]
            model = dense(model, options)
        else:
            words += ["--calibration", text, "--samples", str(options.samples), "--seqlen", str(options.seqlen)]
            words += ["--ratio", RATIO] if case.command == "prune" and "--ratio" not in words else []
        peak = run([case.command, model, str(out), *words, "--device", "cpu"], options.float32)
        record = json.loads((out / "slimgpt.json").read_text())
    cost = record["recovery"][-1] if case.command == "recover" else record["cost"]
    return {
        "date": str(date.today()),
        "model": (options.shape and f"{options.shape}, {options.layers} layers") or Path(model).stem,
        "float32": options.float32,
        "case": case.name,
        "tokens": f"{options.samples} x {options.seqlen}",
        "hardware": cost["device"],
        "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "planned_bytes": cost["planned_host_bytes"],
        "peak_bytes": peak,
    }


def run(arguments: list[str], float32: bool) -> int:
    """Peak bytes of a command in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, "float32" if float32 else "", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{said}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def dense(model: str, options: Any) -> str:
    """The model as a folder, which training needs."""
    if Path(model).is_dir():
        return model
    folder = options.scratch / "dense"
    if not folder.exists():
        run(["prune", model, str(folder), "--ratio", "0", "--layout", "uniform", *DENSE], options.float32)
    return str(folder)


DENSE = ("--calibration", "builtin", "--samples", "1", "--seqlen", "64")


def rows(options: Any) -> Path:
    """Plain text to learn."""
    path = options.scratch / "rows.jsonl"
    with path.open("w") as file:
        for number in range(96):
            words = " ".join(f"w{(number * 4099 + place * 31) % scale.WORDS}" for place in range(300))
            file.write(json.dumps({"text": words}) + "\n")
    return path


def append(row: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "memory_plan.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    latest = {(row["model"], row["float32"], row["tokens"], row["case"]): row for row in found}
    (RESULTS / "memory_plan.md").write_text(markdown(list(latest.values())))
    print(line(row), flush=True)


def markdown(found: list[dict[str, Any]]) -> str:
    """The latest measurement of each case."""
    head = (
        "# Memory: announced and taken\n\n"
        "What each command said before it started (`planned_host_bytes` of its record), and the most that its process "
        "took, as the system says (`ru_maxrss`); both with Python and its libraries. "
        f"`python benchmarks/memory_plan.py --help` says how. The plan is to hold within {CAUGHT:.0%}.\n\n"
        "| date | hardware | model | computed in | tokens | command | announced, MiB | taken, MiB | ratio | |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(f"{line(row)}\n" for row in found)


def line(row: dict[str, Any]) -> str:
    planned, peak = row["planned_bytes"], row["peak_bytes"]
    ratio = planned / peak
    shown = f"{ratio:.2f}" if abs(ratio - 1) <= CAUGHT else f"**{ratio:.2f}**"
    computed = "float32" if row["float32"] else "as the CPU can"
    cells = [row["date"], row["hardware"], row["model"], computed, row["tokens"], f"`{row['case']}`"]
    figures = [f"{planned / 2**20:,.0f}", f"{peak / 2**20:,.0f}", shown, row.get("note", "")]
    return "| " + " | ".join([*cells, *figures]) + " |"


if __name__ == "__main__":
    main()
