"""The record of a sparse model, ``slimgpt.json``: what was asked, what every projection has, what that saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from slimgpt.machine.clock import Clock
from slimgpt.machine.versions import versions
from slimgpt.model.beginning import bos_of
from slimgpt.model.schema import SCHEMA
from slimgpt.output import assembly, record_file
from slimgpt.sparsity.job import Job


def build(
    job: Job, targets: Sequence[Mapping[str, float]], layers: Sequence[Mapping[str, dict[str, Any]]], clock: Clock
) -> dict[str, Any]:
    """Everything one would want to know of the run afterwards."""
    checkpoint = job.checkpoint
    return {
        "schema": SCHEMA,
        "kind": "sparsify",
        **record_file.provenance(checkpoint),
        "options": asdict(job.config),
        "bos": bos_of(job.tokenizer, job.config.bos) if job.windows_BT is not None else None,
        "versions": versions(),
        "parameters": record_file.sizes(checkpoint.num_params, checkpoint.num_params, job.num_bytes),
        "sparsity": _sparsity(job, layers),
        "projections": [
            {
                "layer": index,
                "matrices": {path: _matrix(entry, targets[index][path]) for path, entry in layer.items()},
            }
            for index, layer in enumerate(layers)
        ],
        "layout": "per-layer" if assembly.is_per_layer(checkpoint.config) else "uniform",
        "cost": record_file.cost(clock, job.device, job.needs.host),
    }


def _matrix(entry: Mapping[str, Any], target: float) -> dict[str, Any]:
    outputs, inputs = entry["shape"]
    return {**entry, "sparsity": entry["zeros"] / (outputs * inputs), "target": target}


def _sparsity(job: Job, layers: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, Any]:
    """Zeros in all, and the multiplications with weights that are left where zeros cost nothing."""
    matrices = [entry for layer in layers for entry in layer.values()]
    zeros = sum(entry["zeros"] for entry in matrices)
    weights = sum(entry["shape"][0] * entry["shape"][1] for entry in matrices)
    skeleton: Any = job.checkpoint.skeleton
    head = skeleton.get_output_embeddings().weight.numel()
    return {
        "target": job.config.target,
        "zeros": zeros,
        "projection_weights": weights,
        "projections": zeros / weights,
        "parameters": zeros / job.checkpoint.num_params,
        "flops_left_projections": 1 - zeros / weights,
        "flops_left_with_head": 1 - zeros / (weights + head),
    }
