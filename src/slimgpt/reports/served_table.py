"""What ``slimgpt bench --server`` prints: one row for each model and number of clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from slimgpt.reports.loudness import out

COLUMNS = {
    "requests_per_s": ("requests/s", ",.2f"),
    "tokens_per_s": ("tokens/s", ",.1f"),
    "tokens_per_cpu_s": ("tokens/CPU s", ",.1f"),
    "time_to_first_token_ms": ("first token, ms", ",.1f"),
    "time_between_tokens_ms": ("between tokens, ms", ",.1f"),
}


def print_served(result: Mapping[str, Any]) -> None:
    """Every quantity with its ratio to the first model's."""
    settings, vllm = result["settings"], result["versions"]["vllm"]
    table = Table(title=f"Served by vLLM {vllm}", title_justify="left")
    for column in ("model", "parameters", "cache, tokens", "clients", *(label for label, _ in COLUMNS.values())):
        table.add_column(column, justify="left" if column == "model" else "right", overflow="fold")
    for model in result["models"]:
        room = "–" if model["cache_tokens"] is None else f"{model['cache_tokens']:,}"
        for clients, found in model["by_clients"].items():
            shown = (_figure(found, name, form) for name, (_, form) in COLUMNS.items())
            table.add_row(model["model"], f"{model['parameters']:,}", room, clients, *shown)
    out.print(table)
    out.print(
        f"Prompts of {settings['prompt_tokens']} tokens, {settings['new_tokens']} new tokens, "
        f"{settings['requests_per_client']} requests of each client. Median of {settings['repeats']} repeats, after "
        f"{settings['warmup']} unmeasured; the models took turns, and × is the ratio to the first, repeat by repeat."
        + ("" if result["load_before"] is None else f" The load of the machine before: {result['load_before']:.1f}.")
    )


def _figure(found: Mapping[str, Any], name: str, form: str) -> str:
    return f"{found[name]['median']:{form}} (×{found['ratios_to_first'][name]['median']:.2f})"
