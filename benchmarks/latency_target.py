"""Does a model pruned to a latency target meet it? Predicted time ratios against those that ``slimgpt bench`` measures.

    python benchmarks/latency_target.py MODEL --targets 0.8 0.65 --note "hardware"

Which units stay does not change a model's speed, so they are chosen by magnitude, in seconds.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from slimgpt import PruneConfig, prune
from slimgpt.benchmarking import bench
from slimgpt.config import BenchConfig


@dataclass(frozen=True)
class Options:
    """Prune to every target, bench the results beside the dense model, and append a row for each."""

    model: Annotated[str, Positional]
    targets: tuple[float, ...] = (0.8, 0.65)
    """Fractions of the dense model's time."""
    latency_of: Literal["decode", "prefill"] = "decode"
    prompt: int = 128
    new_tokens: int = 17
    repeats: int = 7
    device: str = "auto"
    table: str | None = None
    """File of the table of layer costs; by default in the cache."""
    out: Path = Path("benchmarks/results/latency_target.jsonl")
    note: str = ""
    """Hardware, for the table."""


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = {target: pruned(options, target, f"{folder}/{target}") for target in options.targets}
        models = (options.model, *(f"{folder}/{target}" for target in options.targets))
        sizes = {"prompt_tokens": options.prompt, "new_tokens": options.new_tokens, "repeats": options.repeats}
        measured = bench(BenchConfig(models, device=options.device, **sizes))
    rows = [
        {
            "date": date.today().isoformat(),
            "model": Path(options.model).name,
            "device": measured["device"],
            "note": options.note,
            "latency_of": options.latency_of,
            "target": target,
            "removed_ratio": record["parameters"]["removed_ratio"],
            **compared(record, model),
        }
        for (target, record), model in zip(records.items(), measured["models"][1:], strict=True)
    ]
    with options.out.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    options.out.with_suffix(".md").write_text(table([json.loads(line) for line in options.out.open()]))


def pruned(options: Options, target: float, out: str) -> dict[str, Any]:
    config = PruneConfig(
        options.model,
        out,
        target_latency=f"{target}x",
        latency_of=options.latency_of,
        latency_prompt=options.prompt,
        latency_table=options.table,
        solver="magnitude",
        allocation="uniform",
        calibration="builtin",
        samples=1,
        seqlen=64,
        device=options.device,
    )
    return prune(config).record


def compared(record: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Time ratios to the dense model, predicted and measured; of the measured also the quartiles."""
    found = {}
    for name in ("decode", "prefill"):
        ms, speed = record["predicted_latency"][f"{name}_ms"], model["ratios_to_first"][name]
        found[name] = {
            "predicted": ms["after"] / ms["before"],
            "measured": 1 / speed["median"],
            "low": 1 / speed["high"],
            "high": 1 / speed["low"],
        }
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Latency targets: predicted and measured",
        "",
        "Time of the pruned model as a fraction of the dense model's, batch size 1: predicted from the table of layer",
        "costs, and measured afterwards by `slimgpt bench` (median and quartiles of paired repeats).",
        "",
        "| model | where | target | parameters removed | token, predicted | measured | prompt, predicted | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        where = f"{row['note'] or row['device']}, {row['date']}"
        cells = [row["model"], where, f"{row['latency_of']} {row['target']}x", f"{row['removed_ratio']:.1%}"]
        for name in ("decode", "prefill"):
            found = row[name]
            cells += [f"{found['predicted']:.2f}", f"{found['measured']:.2f} ({found['low']:.2f}–{found['high']:.2f})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options))
