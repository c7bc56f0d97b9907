"""What ``slimgpt bench`` prints: one column a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from slimgpt.reports.loudness import out
from slimgpt.reports.memory import mebibytes


def print_bench(result: Mapping[str, Any]) -> None:
    """Every quantity of every model; the ratios are to the first."""
    models, settings = result["models"], result["settings"]
    table = Table(title=f"On {result['device']}", title_justify="left")
    table.add_column("")
    for model in models:
        table.add_column(model["model"], justify="right", overflow="fold")
    for label, show in _rows(on_cpu=models[0]["idle_bytes"] is not None).items():
        table.add_row(label, *(show(model) for model in models))
    out.print(table)
    out.print(
        f"Prompts of {settings['prompt_tokens']} tokens, {settings['new_tokens']} new tokens, {settings['batch_size']} "
        f"at a time. Median of {settings['repeats']} repeats (quartiles), after {settings['warmup']} unmeasured; the "
        "models took turns, and × is the ratio to the first, repeat by repeat."
    )


def _rows(on_cpu: bool) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Label -> how a model's figure is shown."""
    idle = {"… before the model": lambda model: mebibytes(model["idle_bytes"])} if on_cpu else {}
    return {
        "parameters": lambda model: f"{model['parameters']:,}",
        "dtype": lambda model: model["dtype"],
        "on disk": lambda model: mebibytes(model["bytes_on_disk"]),
        "peak memory": lambda model: mebibytes(model["peak_bytes"]),
        **idle,
        "MFLOPs per token": lambda model: f"{model['flops_per_token'] / 1e6:,.1f}",
        "prefill, tokens/s": lambda model: _spread(model["prefill_tokens_per_s"], ",.1f"),
        "prefill, × first": lambda model: _spread(model["ratios_to_first"]["prefill"], ".2f"),
        "decode, tokens/s": lambda model: _spread(model["decode_tokens_per_s"], ",.1f"),
        "decode, × first": lambda model: _spread(model["ratios_to_first"]["decode"], ".2f"),
        "first token, ms": lambda model: _spread(model["time_to_first_token_ms"], ",.1f"),
        "first token, × first": lambda model: _spread(model["ratios_to_first"]["time_to_first_token"], ".2f"),
    }


def _spread(value: Mapping[str, float], form: str) -> str:
    return f"{value['median']:{form}} ({value['low']:{form}} – {value['high']:{form}})"
