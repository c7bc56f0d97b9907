"""Tokens per second of a dense and a pruned model in llama.cpp.

    slimgpt export DENSE dense.gguf --outtype q8_0
    slimgpt export PRUNED pruned.gguf --outtype q8_0
    python benchmarks/export_speed.py dense.gguf pruned.gguf

Both files are loaded once and take turns, so that whatever else runs on the machine hits both alike; the order changes
from turn to turn, and figures are medians.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import date
from pathlib import Path
from statistics import median

import llama_cpp

PROMPT_TOKENS = 256
NEW_TOKENS = 64


def prompt_rate(model: llama_cpp.Llama, ids: list[int]) -> float:
    """Tokens a second that are read in one batch."""
    model.reset()
    start = time.perf_counter()
    model.eval(ids)
    return len(ids) / (time.perf_counter() - start)


def generation_rate(model: llama_cpp.Llama) -> float:
    """Tokens a second that are made one by one, after the prompt; which ones does not matter."""
    start = time.perf_counter()
    for token in range(1000, 1000 + NEW_TOKENS):
        model.eval([token])
    return NEW_TOKENS / (time.perf_counter() - start)


def measure(files: list[str], turns: int, threads: int) -> dict[str, list[tuple[float, float]]]:
    models = {
        file: llama_cpp.Llama(
            file,
            n_ctx=PROMPT_TOKENS + NEW_TOKENS,
            n_batch=PROMPT_TOKENS,
            n_threads=threads,
            n_threads_batch=threads,  # else all cores, which wait for each other where something else runs on one
            verbose=False,
        )
        for file in files
    }
    ids = list(range(2000, 2000 + PROMPT_TOKENS))
    rates: dict[str, list[tuple[float, float]]] = {file: [] for file in files}
    for turn in range(turns + 1):
        for file in files if turn % 2 else reversed(files):
            found = prompt_rate(models[file], ids), generation_rate(models[file])
            if turn:  # the first warms up
                rates[file].append(found)
    return rates


def report(rates: dict[str, list[tuple[float, float]]], threads: int) -> str:
    turns = len(next(iter(rates.values())))
    lines = [
        f"{date.today()} · {platform.processor() or platform.machine()}, {threads} threads · llama-cpp-python "
        f"{llama_cpp.__version__} · prompt of {PROMPT_TOKENS}, {NEW_TOKENS} new tokens · {turns} turns, medians",
        "",
        "| file | MiB | prompt, tokens/s | generation, tokens/s | speed-up (prompt, generation) |",
        "|---|---|---|---|---|",
    ]
    base = [median(column) for column in zip(*next(iter(rates.values())), strict=True)]
    for file, pairs in rates.items():
        prompt, generation = (median(column) for column in zip(*pairs, strict=True))
        size = Path(file).stat().st_size / 2**20
        lines.append(
            f"| {Path(file).name} | {size:.0f} | {prompt:.0f} | {generation:.1f} | "
            f"{prompt / base[0]:.2f}x, {generation / base[1]:.2f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="GGUF files; the first is what the others are compared with")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(report(measure(options.files, options.turns, options.threads), options.threads))


if __name__ == "__main__":
    main()
