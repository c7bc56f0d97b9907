"""Perplexity along the straight line from a pruned model through the recovered one, and beyond it.

    python benchmarks/recovery_extrapolation.py PRUNED RECOVERED --texts wikitext-2-raw.valid.txt c4-held-out.txt

It is the line on which ``slimgpt recover --extrapolate`` looks for the best place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from transformers import AutoModelForCausalLM
from tyro.conf import Positional

from slimgpt import load_model, perplexity
from slimgpt.evaluation import read_text
from slimgpt.recovery.extrapolation import Line

WINDOWS = (128, 2048)


@dataclass(frozen=True)
class Options:
    """Measure, then write the table."""

    pruned: Annotated[str, Positional]
    recovered: Annotated[str, Positional]
    texts: tuple[str, ...]
    shares: tuple[float, ...] = (0.0, 0.5, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 2.0)
    """Places on the line: 0 is the pruned model, 1 the recovered one."""
    max_tokens: int = 16384
    """Perplexity on the first tokens of each text."""
    out: Path = Path("benchmarks/results/recovery_extrapolation.md")
    note: str = ""
    """Models, hardware and date, for the table."""


def main(options: Options) -> None:
    texts = {Path(text).stem: read_text(text) for text in options.texts}
    model, tokenizer = load_model(options.recovered)
    before = AutoModelForCausalLM.from_pretrained(options.pruned, dtype=torch.float32)
    line = Line(model.float().requires_grad_(True), before)
    places = [(name, window) for name in texts for window in WINDOWS]
    lines = [
        "# Beyond the end of training",
        "",
        f"Perplexity (first {options.max_tokens:,} tokens of each text, by window) at places on the line from the "
        f"pruned model (0) through the recovered one (1). {options.note}",
        "",
        "| place | " + " | ".join(f"{name}@{window}" for name, window in places) + " |",
        "|---:|" + "---:|" * len(places),
    ]
    for share in options.shares:
        line.go_to(share)
        found = [perplexity(model, tokenizer, texts[name], w, options.max_tokens).perplexity for name, w in places]
        lines.append(f"| {share:g} | " + " | ".join(f"{value:.2f}" for value in found) + " |")
        print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
