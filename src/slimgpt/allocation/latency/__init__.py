"""How long a model of given widths will take: a table of layer costs, measured once and kept.

checkpoint --measure--> LatencyTable --goal--> plan
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from slimgpt.allocation.latency.measuring import NEW_TOKENS, conditions, measure, shape
from slimgpt.allocation.latency.table import WORKLOADS, LatencyTable, check_model, kept_table, read_table, write_table
from slimgpt.allocation.measures import NS_PER_MS
from slimgpt.allocation.places import Allocation
from slimgpt.config.paths import path_of
from slimgpt.errors import ConfigError
from slimgpt.machine import devices, host
from slimgpt.model.checkpoint import Checkpoint

__all__ = ["LatencyTable", "predicted", "read_table", "table_for"]


def table_for(
    file: str | None,
    prompt_tokens: int,
    checkpoint: Checkpoint,
    device: torch.device,
    stored_dtype: torch.dtype,
    note: Callable[[str], None] = lambda text: None,
) -> LatencyTable:
    """The table of this model from ``file`` (``--latency-table``) or the cache; measured, and kept
    there, if it is not there yet.

    A file may come from another device, which is then the one the target is for. ``note(text)`` is told when measuring
    starts.

    Raises:
        ConfigError: the file is no such table, of another model, or cannot be written.
    """
    _check_prompt(prompt_tokens, checkpoint)

    def measured_now() -> LatencyTable:
        note(f"Measuring what layers of {checkpoint.source} cost by width on {device}; the table is kept.")
        return measure(checkpoint, device, stored_dtype, prompt_tokens)

    if file is None:
        dtype = devices.compute_dtype(stored_dtype, device)
        return _cached(checkpoint, conditions(device, dtype, prompt_tokens), measured_now)
    path = path_of(file, "--latency-table")
    if path.exists():
        table = read_table(path)
        check_model(table, shape(checkpoint), path)
        _check_same_prompt(table, prompt_tokens, path)
        return table
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--latency-table {path} cannot be written: there is no folder {path.parent}. Make it first.")
    table = measured_now()
    write_table(path, table)
    return table


def _check_prompt(prompt_tokens: int, checkpoint: Checkpoint) -> None:
    """Raise ConfigError if the prompt and what follows it are more than the model was made for."""
    context = getattr(checkpoint.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if context is not None and prompt_tokens + NEW_TOKENS > context:
        raise ConfigError(
            f"--latency-prompt {prompt_tokens} leaves no room for {NEW_TOKENS} more tokens in the model's context "
            f"of {context}: give a shorter one."
        )


def _check_same_prompt(table: LatencyTable, prompt_tokens: int, path: Path) -> None:
    found = table.measured.get("prompt_tokens")
    if found != prompt_tokens:
        raise ConfigError(
            f"--latency-table {path} was measured with a prompt of {found} tokens, not of {prompt_tokens}: give "
            f"--latency-prompt {found}, or name another file."
        )


def _cached(
    checkpoint: Checkpoint, measured: Mapping[str, Any], measure_now: Callable[[], LatencyTable]
) -> LatencyTable:
    key = repr([sorted(shape(checkpoint).items()), sorted(measured.items())])
    path = host.cache_folder("latency") / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    table = kept_table(path, key)
    if table is None:
        table = measure_now()
        with suppress(OSError):  # a cache that cannot be written is done without
            path.parent.mkdir(parents=True, exist_ok=True)
            write_table(path, table, key)
    return table


def predicted(table: LatencyTable, before: Allocation, after: Allocation) -> dict[str, Any]:
    """What a table says of a plan, for the record: milliseconds of each workload, before and after."""
    return {
        "table": table.fingerprint(),
        **{key: table.measured[key] for key in ("device", "dtype", "prompt_tokens") if key in table.measured},
        **{
            f"{name}_ms": {
                "before": table.times[name].of_model(before) / NS_PER_MS,
                "after": table.times[name].of_model(after) / NS_PER_MS,
            }
            for name in WORKLOADS
        },
    }
