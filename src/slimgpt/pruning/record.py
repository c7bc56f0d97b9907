"""What ``slimgpt prune`` records: the whole run, and the part of it that the journal keeps for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.allocation import latency
from slimgpt.allocation.plan import dense_layers
from slimgpt.arch.family import output_dim
from slimgpt.machine import devices, host
from slimgpt.machine.clock import Clock
from slimgpt.machine.versions import versions
from slimgpt.model.biases import carried
from slimgpt.model.pruned_config import resized_layers
from slimgpt.model.schema import SCHEMA
from slimgpt.pruning.job import Job
from slimgpt.search import tried
from slimgpt.sites import Removal, Site
from slimgpt.streaming.conveyor import to_host


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
        prefix + name: to_host(tensor, job.machine.stored_dtype).contiguous()
        for name, tensor in pruned.state_dict().items()
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
        **({"search": found} if (found := tried(job.search)) else {}),
        **({"bias_compensation": carried(job.checkpoint)} if job.config.solver == "flap" else {}),
        "layers": [
            {"layer": index, "config": sizes, "sites": entry["sites"]}
            for index, (entry, sizes) in enumerate(
                zip(layers, resized_layers(job.checkpoint, plan.kept_by_layer), strict=True)
            )
        ],
        "cost": {
            "seconds": {stage: round(seconds, 3) for stage, seconds in clock.seconds.items()},
            "peak_host_bytes": host.peak_host_bytes(),
            "peak_device_bytes": devices.peak_device_bytes(job.machine.device),
            "device": devices.device_name(job.machine.device),
        },
    }


def _latency(job: Job) -> dict[str, Any]:
    """The predicted times, where a time was the target."""
    if job.latency is None:
        return {}
    return {"predicted_latency": latency.predicted(job.latency, dense_layers(job.plan.budget), job.plan.layers)}
