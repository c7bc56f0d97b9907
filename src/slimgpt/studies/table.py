"""One row a cell: what it is, what it cost and what it is worth. From records to CSV and Parquet and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import csv, parquet

from slimgpt.machine.atomic import scratch

CELL = ("model", "method", "granularity", "ratio", "schedule", "allocation", "tuning", "quantisation", "seed")
COLUMNS: Mapping[str, pyarrow.DataType] = {
    "id": pyarrow.string(),
    "status": pyarrow.string(),
    **{name: pyarrow.string() for name in CELL},
    "ratio": pyarrow.float64(),
    "seed": pyarrow.int64(),
    "parameters": pyarrow.int64(),
    "zeros": pyarrow.int64(),
    "nonzero_parameters": pyarrow.int64(),
    "stored_bytes": pyarrow.int64(),
    "flops_per_token": pyarrow.int64(),
    "flops_per_token_without_zeros": pyarrow.int64(),
    "nll_per_token": pyarrow.float64(),
    "nll_stderr": pyarrow.float64(),
    "perplexity": pyarrow.float64(),
    "bits_per_byte": pyarrow.float64(),
    "seen_nll_per_token": pyarrow.float64(),
    "tuning_loss": pyarrow.float64(),
    "suite_accuracy": pyarrow.float64(),
    "typos_bits_per_byte": pyarrow.float64(),
    "case_bits_per_byte": pyarrow.float64(),
    "shuffled_words_bits_per_byte": pyarrow.float64(),
    "kl_nats_per_token": pyarrow.float64(),
    "decode_ms_per_token": pyarrow.float64(),
    "decode_ratio_to_dense": pyarrow.float64(),
    "prefill_ratio_to_dense": pyarrow.float64(),
    "peak_bytes": pyarrow.int64(),
    "bench_machine_joules": pyarrow.float64(),
    "seconds": pyarrow.float64(),
    "error": pyarrow.string(),
}
"""What the table has, and of which type. A figure that was not measured is null. ``decode_ms_per_token`` is the median;
``tuning_loss`` the mean over the last quarter of the logged training losses; joules are of the whole machine."""


def row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a cell's record."""
    cell, measured = record["cell"], record["measured"]
    found = {
        "id": record["id"],
        "status": record["status"],
        **{name: cell[name] for name in CELL},
        "seconds": sum(step["seconds"] for step in record["steps"]),
        "error": _error(record),
        **_quality(measured),
        **_robustness(measured.get("compare") or {}),
        **_cost(measured, record["steps"]),
    }
    return {name: found.get(name) for name in COLUMNS}


def _error(record: Mapping[str, Any]) -> str | None:
    error = record["error"]
    return None if error is None else f"{error['step']}: {error['message']}"


def text_entry(evaluated: Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]]:
    """Name and entry of the one text of an ``eval.json``; empty without one."""
    for name, entry in (evaluated or {}).get("results", {}).items():
        if "perplexity,none" in entry:
            return name, entry
    return "", {}


def _quality(measured: Mapping[str, Any]) -> dict[str, Any]:
    _, held_out = text_entry(measured.get("eval"))
    _, seen = text_entry(measured.get("seen"))
    suite = (measured.get("eval") or {}).get("results", {}).get("slimgpt", {})
    return {
        "nll_per_token": held_out.get("nll_per_token,none"),
        "nll_stderr": held_out.get("nll_per_token_stderr,none"),
        "perplexity": held_out.get("perplexity,none"),
        "bits_per_byte": held_out.get("bits_per_byte,none"),
        "seen_nll_per_token": seen.get("nll_per_token,none"),
        "suite_accuracy": suite.get("acc,none"),
        "tuning_loss": _tuning_loss(measured.get("tuned") or {}),
    }


def _tuning_loss(record: Mapping[str, Any]) -> float | None:
    recoveries = record.get("recovery") or [{}]
    losses = [point["loss"] for point in recoveries[-1].get("history", []) if "loss" in point]
    last = losses[-max(1, len(losses) // 4) :]
    return sum(last) / len(last) if last else None


def _robustness(comparison: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        f"{str(own['corruption']).replace('-', '_')}_bits_per_byte": own["model_bits_per_byte"]
        for own in comparison.get("robustness") or ()
    }
    return {**found, "kl_nats_per_token": comparison.get("kl_nats_per_token")}


def _cost(measured: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Size, theoretical work and measured speed, side by side: zeros are free in the second alone."""
    own = (measured.get("bench") or {"models": [{}]})["models"][-1]
    parameters = (measured.get("eval") or {}).get("parameters")
    zeros = (measured.get("eval") or {}).get("zeros")
    packed = ((measured.get("eval") or {}).get("quantisation") or {}).get("packed_bytes")
    flops = own.get("flops_per_token")
    decode = own.get("decode_tokens_per_s")
    ratios = own.get("ratios_to_first") or {}
    return {
        "parameters": parameters,
        "zeros": zeros,
        "nonzero_parameters": None if parameters is None or zeros is None else parameters - zeros,
        "stored_bytes": packed or measured.get("stored_bytes") or own.get("bytes_on_disk"),
        "flops_per_token": flops,
        "flops_per_token_without_zeros": None if flops is None or zeros is None else flops - 2 * zeros,
        "decode_ms_per_token": 1000 / decode["median"] if decode else None,
        "decode_ratio_to_dense": ratios["decode"]["median"] if ratios else None,
        "prefill_ratio_to_dense": ratios["prefill"]["median"] if ratios else None,
        "peak_bytes": own.get("peak_bytes"),
        "bench_machine_joules": next((step["machine_joules"] for step in steps if step["name"] == "bench"), None),
    }


def as_table(records: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
    """All rows, in the records' order."""
    return pyarrow.Table.from_pylist([row(record) for record in records], schema=pyarrow.schema(COLUMNS.items()))


def write(table: pyarrow.Table, folder: Path) -> tuple[Path, Path]:
    """``table.csv`` and ``table.parquet`` in a folder, each whole or not at all."""
    paths = folder / "table.csv", folder / "table.parquet"
    for path, writer in zip(paths, (csv.write_csv, parquet.write_table), strict=True):
        with scratch(path) as unfinished:
            writer(table, os.fspath(unfinished))
    return paths


def read(path: Path) -> pyarrow.Table:
    """A table that was written here, from either file."""
    if path.suffix == ".parquet":
        return parquet.read_table(path)
    options = csv.ConvertOptions(column_types=dict(COLUMNS), strings_can_be_null=True)
    return csv.read_csv(path, convert_options=options, parse_options=csv.ParseOptions(newlines_in_values=True))
