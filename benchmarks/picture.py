"""The README's picture: quality against size of the paper's method and of ours, from the measurements beside this file.

    python benchmarks/picture.py

Perplexity on WikiText-2 test at 2048 tokens, geometric mean over seeds, of the rows that `ablation.py` has written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import tyro
from matplotlib.figure import Figure

HERE = Path(__file__).parent / "results"
LINES = {
    "the paper's method": ("ablation.jsonl", "the paper", "#8a8a8a"),
    "slimgpt, as it comes": ("ablation.jsonl", "searched", "#3f51b5"),
    "slimgpt, distilled on its calibration text": (
        "ablation_1024.jsonl",
        "searched, query heads too, 24 candidates, by quarters, distilled",
        "#c2185b",
    ),
}
"""Label -> file, method and colour."""


@dataclass(frozen=True)
class Options:
    """Draw the picture."""

    out: Path = Path("docs/images/quality.svg")


@dataclass(frozen=True)
class Point:
    """A model: millions of parameters, and what it scores."""

    millions: float
    perplexity: float


def main(options: Options) -> None:
    matplotlib.rcParams.update({"svg.hashsalt": "slimgpt", "svg.fonttype": "path", "font.size": 10})
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for label, (file, method, colour) in LINES.items():
        line = points(HERE / file, method)
        axes.plot([p.millions for p in line], [p.perplexity for p in line], "o-", color=colour, label=label)
        for point in line[1:]:
            axes.annotate(
                f"{point.perplexity:.1f}", (point.millions, point.perplexity), (5, 4), textcoords="offset points"
            )
    dense = points(HERE / "ablation.jsonl", "searched")[0]
    axes.annotate(
        f"dense, {dense.perplexity:.1f}", (dense.millions, dense.perplexity), (-72, 6), textcoords="offset points"
    )
    axes.set(yscale="log", xlabel="parameters, millions (embedding: 28)", ylabel="perplexity, WikiText-2 test")
    axes.set_yticks([20, 50, 100, 200], ["20", "50", "100", "200"])
    axes.minorticks_off()
    axes.set_title("SmolLM2-135M without 25 and 50 % of its parameters", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(options.out, metadata={"Date": None})


def points(file: Path, method: str) -> list[Point]:
    """The dense model, then the method at every ratio, by falling size."""
    found: dict[float, list[float]] = {}
    for row in _rows(file):
        if row["method"] in ("dense", method) and "test_2048" in row:
            found.setdefault(row["ratio"], []).append(row["test_2048"])
    means = {ratio: math.exp(sum(map(math.log, scores)) / len(scores)) for ratio, scores in found.items()}
    return [Point((1 - ratio) * dense_millions(), means[ratio]) for ratio in sorted(means)]


def dense_millions() -> float:
    """Parameters of the dense model, in millions."""
    return next(row["parameters"] for row in _rows(HERE / "evaluation.jsonl") if row["ratio"] == 0) / 1e6


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
