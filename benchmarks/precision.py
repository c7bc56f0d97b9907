"""What a processor makes of bfloat16: matrix products and a whole forward pass, beside float32, in turns.

    python benchmarks/precision.py MODEL

slimgpt computes in a checkpoint's bfloat16 only where that is faster; the table says which it takes here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from transformers import AutoModelForCausalLM
from tyro.conf import Positional

from slimgpt.machine.devices import compute_dtype

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Options:
    """Measure, then write the table."""

    model: Annotated[str, Positional]
    device: str = "cpu"
    tokens: int = 2048
    """Rows of every product, and tokens of the forward pass in rows of 512."""
    rounds: int = 15
    """Measurements of each, in turns."""
    out: Path = Path("benchmarks/results/precision.md")
    note: str = ""
    """Hardware and date, for the table."""


Timed = dict[str, dict[torch.dtype, Callable[[], object]]]


@torch.inference_mode()
def main(options: Options) -> None:
    timed = {**products(options), **forward_pass(options)}
    medians = {name: in_turns(options, by_dtype) for name, by_dtype in timed.items()}
    options.out.write_text(report(options, medians))


def products(options: Options) -> Timed:
    """y = x Wᵀ of the model's FFN and head, and of a large square matrix."""
    config = AutoModelForCausalLM.from_pretrained(options.model).config
    width = config.hidden_size
    shapes = [(width, config.intermediate_size), (width, config.vocab_size), (4096, 4096)]
    return {f"{options.tokens} x {i} by {i} x {o}": product(options, i, o) for i, o in shapes}


def product(options: Options, inputs: int, outputs: int) -> dict[torch.dtype, Callable[[], object]]:
    x_TI = torch.randn(options.tokens, inputs, device=options.device)
    w_OI = torch.randn(outputs, inputs, device=options.device)

    def in_dtype(dtype: torch.dtype) -> Callable[[], object]:
        x, w = x_TI.to(dtype), w_OI.to(dtype)
        return lambda: torch.nn.functional.linear(x, w)

    return {dtype: in_dtype(dtype) for dtype in DTYPES}


def forward_pass(options: Options) -> Timed:
    """Of the whole model, its logits included."""
    ids_BT = torch.arange(options.tokens, device=options.device).view(-1, 512) % 1000

    def in_dtype(dtype: torch.dtype) -> Callable[[], object]:
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(options.device).eval()
        return lambda: model(input_ids=ids_BT, use_cache=False)

    return {f"forward pass of {options.tokens} tokens": {dtype: in_dtype(dtype) for dtype in DTYPES}}


def in_turns(options: Options, by_dtype: dict[torch.dtype, Callable[[], object]]) -> dict[torch.dtype, float]:
    """Median seconds; the first call of each is left out."""
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in by_dtype}
    for _ in range(options.rounds + 1):
        for dtype, run in by_dtype.items():
            start = time.perf_counter()
            run()
            if options.device != "cpu":
                torch.cuda.synchronize()
            seconds[dtype].append(time.perf_counter() - start)
    return {dtype: statistics.median(found[1:]) for dtype, found in seconds.items()}


def report(options: Options, medians: dict[str, dict[torch.dtype, float]]) -> str:
    chosen = str(compute_dtype(torch.bfloat16, torch.device(options.device))).removeprefix("torch.")
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    has = [name for name in ("avx512_f", "avx512_bf16", "amx_bf16") if known.get(name)]
    lines = [
        "# bfloat16 beside float32",
        "",
        f"Milliseconds, medians of {options.rounds} in turns, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; the processor has {', '.join(has) or 'none of avx512_f, avx512_bf16 and amx_bf16'}. For "
        f"a checkpoint in bfloat16 slimgpt computes in **{chosen}** here. {options.note}",
        "",
        "|  | float32 | bfloat16 | bfloat16 takes |",
        "|---|---:|---:|---:|",
    ]
    for name, by_dtype in medians.items():
        plain, half = (by_dtype[dtype] * 1000 for dtype in DTYPES)
        lines.append(f"| {name} | {plain:,.0f} | {half:,.0f} | {half / plain:.2f} times as long |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options))
