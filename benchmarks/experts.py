"""What is left of a mixture when a quarter or half of its experts go: held-out loss by score, kind of text and repair.

    python examples/train_tiny_moe.py mixture
    python benchmarks/experts.py mixture

Cells are appended to a JSONL file as they finish and are not made again; the table is written beside it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from slimgpt import PruneConfig, load_model, perplexity, prune

SCORES = ("reap", "man", "frequency", "aimer", "random", "exact")
KINDS = ("documentation", "code", "sums", "json")
OF_EACH = "of each"
ALONE = "code"  # what one calibration text has alone


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then write the table."""

    mixture: Annotated[Path, Positional]
    """Folder that examples/train_tiny_moe.py made."""
    out: Path = Path("benchmarks/results/experts.jsonl")
    shares: tuple[float, ...] = (0.25, 0.5)
    seeds: tuple[int, ...] = (0, 1, 2)
    samples: int = 64
    seqlen: int = 128
    max_tokens: int = 4096
    """Evaluate on the first tokens of each kind."""
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for cell in cells(options):
        if not any(cell.items() <= row.items() for row in rows):
            rows.append({**cell, **measure(options, cell)})
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
            options.out.with_suffix(".md").write_text(page(options, rows), encoding="utf-8")
    options.out.with_suffix(".md").write_text(page(options, rows), encoding="utf-8")


def cells(options: Options) -> Iterator[dict[str, Any]]:
    """The dense model first; then the first seed of everything, and so on."""
    yield {"score": "dense"}
    for seed in options.seeds:
        for text in (OF_EACH, ALONE):
            for share in options.shares:
                for score in SCORES:
                    for repair in (False, True):
                        if text == OF_EACH or (score in ("reap", "frequency", "exact") and share == 0.5):
                            yield {"score": score, "share": share, "repair": repair, "text": text, "seed": seed}


def measure(options: Options, cell: dict[str, Any]) -> dict[str, Any]:
    """Held-out nats a token of each kind of text."""
    dense = options.mixture / "model"
    if cell["score"] == "dense":
        return {"nats": nats(options, dense)}
    with tempfile.TemporaryDirectory() as folder:
        name = "train.jsonl" if cell["text"] == OF_EACH else f"train-{ALONE}.jsonl"
        config = PruneConfig(
            str(dense),
            f"{folder}/out",
            experts=cell["share"],
            expert_score=cell["score"],
            expert_repair=cell["repair"],
            calibration=str(options.mixture / name),
            samples=options.samples,
            seqlen=options.seqlen,
            seed=cell["seed"],
            device="cpu",
        )
        record = prune(config).record
        layers = record["experts"]["layers"]
        errors = [layer.get("error_after_repair") for layer in layers] if cell["repair"] else None
        before = [layer.get("error_before_repair") for layer in layers] if cell["repair"] else None
        return {"nats": nats(options, Path(folder) / "out"), "layer_errors": errors, "layer_errors_before": before}


def nats(options: Options, model: Path) -> dict[str, float]:
    network, tokenizer = load_model(str(model), "cpu")
    texts = {kind: (options.mixture / f"held-out-{kind}.txt").read_text(encoding="utf-8") for kind in KINDS}
    return {
        kind: math.log(perplexity(network, tokenizer, text, options.seqlen, options.max_tokens).perplexity)
        for kind, text in texts.items()
    }


# --- the page ---------------------------------------------------------------------------------------


def page(options: Options, rows: list[dict[str, Any]]) -> str:
    dense = rows[0]["nats"]
    parts = [
        "# Fewer experts\n",
        "Held-out nats a token (lower is better) of a mixture of four layers with 16 experts each, two of them a "
        "token, trained from nothing by `examples/train_tiny_moe.py` on four kinds of text. Means over seeds of the "
        "calibration text (their number in brackets). *Gap*: how much smaller the mean's distance to the dense model "
        f"is than REAP without repair leaves it, over the same seeds. {options.samples} windows of {options.seqlen} "
        f"tokens; the first {options.max_tokens:,} held-out tokens of each kind. {options.note}\n",
    ]
    for text, share in ((OF_EACH, 0.25), (OF_EACH, 0.5), (ALONE, 0.5)):
        found = [row for row in rows[1:] if row["text"] == text and row["share"] == share]
        if found:
            title = "all four kinds" if text == OF_EACH else f"{text} alone"
            parts.append(f"## {share:.0%} of the experts gone, calibrated on {title}\n")
            parts.append(table(dense, found))
    return "\n".join(parts)


def table(dense: dict[str, float], found: list[dict[str, Any]]) -> str:
    lines = [
        "| score | repair | " + " | ".join(KINDS) + " | mean | gap |",
        "|---|---|" + "---|" * (len(KINDS) + 2),
        line("dense", "", [dense], ""),
    ]
    for score in SCORES:
        for repair in (False, True):
            own = [row for row in found if row["score"] == score and row["repair"] == repair]
            if own:
                lines.append(
                    line(score, "yes" if repair else "no", [row["nats"] for row in own], gap(dense, found, own))
                )
    return "\n".join(lines) + "\n"


def line(score: str, repair: str, nats: list[dict[str, float]], gap: str) -> str:
    cells = [f"{mean(one[kind] for one in nats):.3f}" for kind in KINDS]
    overall = mean(mean(one.values()) for one in nats)
    return f"| {score} | {repair} | " + " | ".join(cells) + f" | {overall:.3f} ({len(nats)}) | {gap} |"


def gap(dense: dict[str, float], found: list[dict[str, Any]], own: list[dict[str, Any]]) -> str:
    """Of the seeds that both have."""
    reap = {row["seed"]: row for row in found if row["score"] == "reap" and not row["repair"]}
    pairs = [(row, reap[row["seed"]]) for row in own if row["seed"] in reap]
    if not pairs:
        return ""
    ours, theirs = (mean(mean(pair[side]["nats"].values()) for pair in pairs) for side in (0, 1))
    whole = theirs - mean(dense.values())
    return f"{(theirs - ours) / whole:.0%}" if whole > 0 else ""


if __name__ == "__main__":
    main(tyro.cli(Options))
