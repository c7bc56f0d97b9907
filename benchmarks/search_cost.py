"""What a search's loss curves cost: CPU seconds of a layer with and without those of single query heads.

    python benchmarks/search_cost.py --note "hardware, date"

Rounds are paired: each kind of curves in turn, on the same moments. CPU seconds, so that a machine may be shared; the
first row of both tables has to be the same numbers.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from slimgpt.allocation.places import Place
from slimgpt.searching.curves import loss_table
from slimgpt.searching.sweep import Moments
from slimgpt.solvers.stats import InputStats

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Options:
    """Shapes of SmolLM2-135M unless told otherwise."""

    hidden: int = 576
    ffn: int = 1536
    groups: int = 3
    queries: int = 3
    """Query heads of a KV group."""
    layers: int = 30
    tokens: int = 4096
    rounds: int = 5
    out: Path = Path("benchmarks/results/search_cost.md")
    note: str = ""
    """Hardware and date, for the table."""


def main(options: Options) -> None:
    attention = Place(0, "attention", options.groups, 1, members=options.queries, member_params=1)
    channels = Place(0, "ffn", options.ffn, 1, fine=True)
    rows = {
        "attention": seconds(options, attention, options.hidden),
        "FFN": seconds(options, channels, options.ffn),
    }
    options.out.write_text(report(options, rows))


def seconds(options: Options, place: Place, width: int) -> tuple[list[float], list[float]]:
    """CPU seconds of each round with single query heads, and without."""
    torch.manual_seed(0)
    moments = Moments(torch.randn(options.hidden, width), InputStats(width, CPU), InputStats(options.hidden, CPU))
    moments.inputs.update(torch.randn(options.tokens, width))
    moments.gradients.update(torch.randn(options.tokens, options.hidden))
    with_them, without = [], []
    for _ in range(options.rounds):
        start = time.process_time()
        alone = loss_table([moments], place, options.tokens, 0.01, by_members=False)
        without.append(time.process_time() - start)
        start = time.process_time()
        whole = loss_table([moments], place, options.tokens, 0.01)
        with_them.append(time.process_time() - start)
        assert whole[:1] == alone
    return with_them, without


def report(options: Options, rows: dict[str, tuple[list[float], list[float]]]) -> str:
    lines = [
        "# What a search's curves cost",
        "",
        f"CPU seconds of one layer, median of {options.rounds} paired rounds: hidden {options.hidden}, "
        f"FFN {options.ffn}, {options.groups} KV groups of {options.queries} query heads, "
        f"{options.tokens:,} tokens. {options.note}",
        "",
        "| curves of | with single query heads | without | all layers, less |",
        "|---|---:|---:|---:|",
    ]
    for name, kinds in rows.items():
        more, less = map(statistics.median, kinds)
        lines.append(f"| {name} | {more:.2f} | {less:.2f} | {options.layers * (more - less):.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options))
