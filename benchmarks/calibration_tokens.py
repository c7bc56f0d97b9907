"""How many calibration tokens repair needs: perplexity by their number, with and without repair.

    python benchmarks/calibration_tokens.py MODEL --calibration c4-train.jsonl --held-out c4-held-out.txt \\
        --text wikitext-2-raw.valid.txt --widest 1536

Measurements are appended to a JSONL file as they finish and are not made again; the table and the plot are written
beside it. The plot needs matplotlib (the extra ``report``).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from slimgpt import PruneConfig, load_model, perplexity, prune
from slimgpt.evaluation import read_text

METHODS: dict[str, dict[str, Any]] = {
    "exact solver, repaired": {"solver": "obs"},
    "Wanda's choice, no repair": {"solver": "wanda"},
}


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then write the table and the plot."""

    model: Annotated[str, Positional]
    calibration: str
    held_out: str
    """Text of the calibration's kind that is not in it."""
    text: str
    """Text of another kind."""
    widest: int
    """Inputs of the widest consumer (the FFN width), to count tokens by."""
    out: Path = Path("benchmarks/results/calibration_tokens.jsonl")
    ratio: float = 0.25
    samples: tuple[int, ...] = (4, 16, 64, 256)
    seqlen: int = 512
    window: int = 512
    max_tokens: int = 16384
    """Evaluate on the first tokens of either text."""
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    texts = {"held_out": read_text(options.held_out), "text": read_text(options.text)}
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for samples in options.samples:
        for method in METHODS:
            cell = {"method": method, "samples": samples}
            if not any(cell.items() <= row.items() for row in rows):
                rows.append({**cell, **measure(options, cell, texts)})
                with options.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
    options.out.with_suffix(".md").write_text(table(options, rows))
    plot(options, rows)


def measure(options: Options, cell: dict[str, Any], texts: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/pruned"
        sizes = {"ratio": options.ratio, "samples": cell["samples"], "seqlen": options.seqlen}
        settings = {"calibration": options.calibration, "allocation": "log", **sizes, **METHODS[cell["method"]]}
        prune(PruneConfig(options.model, out, **settings))
        model, tokenizer = load_model(out)
        return {
            name: perplexity(model, tokenizer, text, options.window, options.max_tokens).perplexity
            for name, text in texts.items()
        }


def table(options: Options, rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "# Perplexity by calibration tokens",
        "",
        f"{options.ratio:.0%} of all parameters removed, log curve, one seed. {Path(options.text).name} / "
        f"{Path(options.held_out).name}, first {options.max_tokens:,} tokens of each in windows of {options.window}. "
        f"*A column*: tokens for each input of the widest consumer ({options.widest:,}). {options.note}",
        "",
        f"| tokens | a column | {' | '.join(METHODS)} |",
        "|---:|---:|" + "---|" * len(METHODS),
    ]
    for samples in options.samples:
        tokens = samples * options.seqlen
        found = {row["method"]: row for row in rows if row["samples"] == samples}
        figures = [f"{found[name]['text']:.1f} / {found[name]['held_out']:.1f}" for name in METHODS]
        lines.append(f"| {tokens:,} | {tokens / options.widest:.0f} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def plot(options: Options, rows: Sequence[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for method in METHODS:
        mine = sorted((row["samples"] * options.seqlen, row["held_out"]) for row in rows if row["method"] == method)
        axes.plot(*zip(*mine, strict=True), marker="o", label=method)
    axes.set(xscale="log", yscale="log", xlabel="calibration tokens", ylabel="perplexity, held-out C4")
    axes.legend()
    figure.savefig(options.out.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Options))
