"""The full record of a run, ``slimgpt.json``, and the part of it that the journal keeps for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt import journal, latency, measured, runtime
from slimgpt.arch.family import output_dim
from slimgpt.biases import carried
from slimgpt.conveyor import to_host
from slimgpt.job import Job, versions
from slimgpt.planning import dense_layers
from slimgpt.runtime import Clock
from slimgpt.schema import RECORD, SCHEMA
from slimgpt.search import tried
from slimgpt.sites import Removal, Site


def layer(sites: Sequence[Site], removals: Mapping[str, Removal]) -> dict[str, Any]:
    """A layer's record: what each site kept, and the relative error that it cost."""
    return {"sites": {site.name: _site(site, removals[site.name]) for site in sites}}


def _site(site: Site, removal: Removal) -> dict[str, Any]:
    """Units that stay, and where units have members (query heads), those too, counted through all units."""
    kept_NM = removal.kept_N.view(site.num_units, -1).expand(-1, site.members)
    whole = {"num_units": site.num_units, "kept": _where(kept_NM.any(1))}
    members = {"members": site.members, "kept_members": _where(kept_NM.flatten())} if site.members > 1 else {}
    return {**whole, **members, "error": removal.error}


def _where(flags: Tensor) -> list[int]:
    return [int(index) for index in flags.nonzero().flatten()]


def layer_weights(job: Job, pruned: nn.Module, index: int) -> dict[str, Tensor]:
    """A pruned layer's weights as they will be in the output: full names, dtype of the disk, on the CPU."""
    prefix = job.checkpoint.layer_prefix(index)
    return {
        prefix + name: to_host(tensor, job.stored_dtype).contiguous() for name, tensor in pruned.state_dict().items()
    }


def removal(job: Job, index: int, site: Site, done: Mapping[str, Any]) -> Removal:
    """What an earlier run decided for a site, from its record and its shard."""
    entry = done["sites"][site.name]
    kept_N = torch.zeros(site.num_units * site.members, dtype=torch.bool)
    kept_N[entry["kept_members" if site.members > 1 else "kept"]] = True
    weights, name = job.journal.weights(index), f"{job.checkpoint.layer_prefix(index)}{site.consumer}"
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    consumer = job.checkpoint.layers[index].get_submodule(site.consumer)
    return Removal(kept_N, weight.T if output_dim(consumer) == 1 else weight, entry["error"], torch.empty(0), bias)


def build(job: Job, layers: list[dict[str, Any]], clock: Clock) -> dict[str, Any]:
    """Everything one would want to know of the run afterwards."""
    plan = job.plan
    return {
        "schema": SCHEMA,
        "source": job.checkpoint.source,
        "family": job.checkpoint.family.model_type,
        "options": {**asdict(job.config), "allocation": job.config.chosen_allocation},
        "fingerprint": job.fingerprint,
        "versions": versions(),
        "parameters": {
            "before": plan.params_before,
            "after": plan.params_after,
            "removed_ratio": plan.ratio,
            "bytes_after": plan.bytes_after,
        },
        **_latency(job),
        **({"search": found} if (found := tried(job)) else {}),
        **({"bias_compensation": carried(job.checkpoint)} if job.config.solver == "flap" else {}),
        "layers": [
            {"layer": index, "config": sizes, "sites": entry["sites"]}
            for index, (entry, sizes) in enumerate(zip(layers, _sizes(job), strict=True))
        ],
        "cost": {
            "seconds": {stage: round(seconds, 3) for stage, seconds in clock.seconds.items()},
            "peak_host_bytes": runtime.peak_host_bytes(),
            "peak_device_bytes": runtime.peak_device_bytes(job.device),
            "device": runtime.device_name(job.device),
        },
    }


def _latency(job: Job) -> dict[str, Any]:
    """The predicted times, where a time was the target."""
    if job.latency is None:
        return {}
    return {"predicted_latency": latency.predicted(job.latency, dense_layers(job.plan.budget), job.plan.layers)}


def _sizes(job: Job) -> list[dict[str, int]]:
    family, checkpoint = job.checkpoint.family, job.checkpoint
    return [family.resized(checkpoint.layer_config(i), job.plan.kept(i)) for i in range(len(checkpoint.layers))]


def write(folder: Path, whole: Mapping[str, Any]) -> None:
    """Write the record, and the model card made from it and from what was measured."""
    journal.write_json(folder / RECORD, whole)
    measured.renew_card(folder)
