"""What ``slimgpt prune`` records: the whole run, and the part of it that the journal keeps for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.allocation import latency
from slimgpt.allocation.measures import Memory, planned
from slimgpt.allocation.places import whole
from slimgpt.machine.clock import Clock
from slimgpt.machine.versions import versions
from slimgpt.model.beginning import bos_of
from slimgpt.model.biases import carried
from slimgpt.model.pruned_config import resized_layers
from slimgpt.model.schema import SCHEMA
from slimgpt.output import record_file
from slimgpt.output.record_sites import SiteRecord, sites_of
from slimgpt.pruning.job import Job
from slimgpt.searching import tried
from slimgpt.sites import Removal, Site
from slimgpt.sites.projections import output_dim, weight_OI
from slimgpt.solvers.members import nothing_left
from slimgpt.streaming.conveyor import to_host


def layer(index: int | None, sites: Sequence[Site], removals: Mapping[str, Removal]) -> dict[str, Any]:
    """A layer's record (None: of what is beside the layers): what each site kept, and the error that it cost."""
    return {"sites": [_site(index, site, removals[site.name]).to_json() for site in sites]}


def _site(index: int | None, site: Site, removal: Removal) -> SiteRecord:
    """Units that stay, and where units have members (query heads), those too, counted through all units."""
    kept_NM = removal.kept_N.view(site.num_units, -1).expand(-1, site.members)
    return SiteRecord(
        layer=index,
        site=site.name,
        num_units=site.num_units,
        kept=_where(kept_NM.any(1)),
        error=removal.error,
        unit=site.unit,
        members=site.members,
        kept_members=_where(kept_NM.flatten()) if site.members > 1 else None,
    )


def _where(flags: Tensor) -> tuple[int, ...]:
    return tuple(int(index) for index in flags.nonzero().flatten())


def weights(job: Job, pruned: nn.Module, index: int | None, sites: Sequence[Site]) -> dict[str, Tensor]:
    """A pruned layer's weights as they will be in the output: full names, dtype of the disk, on the CPU.

    Of what lies beside the layers (None), those of the projections that were cut.
    """
    state = {job.checkpoint.layer_prefix(index) + name: tensor for name, tensor in pruned.state_dict().items()}
    if index is None:
        paths = {path for site in sites for path in (site.consumer, *(segment.path for segment in site.producers))}
        state = {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] in paths}
    for site in sites:
        if site.block is not None and job.plan.of_layer(index)[site.part].units == 0:
            gone = f"{job.checkpoint.layer_prefix(index)}{site.block}."
            state = {name: tensor for name, tensor in state.items() if not name.startswith(gone)}
    return {name: to_host(tensor, job.machine.stored_dtype).contiguous() for name, tensor in state.items()}


def removal(job: Job, index: int | None, site: Site, done: Mapping[str, Any]) -> Removal:
    """What an earlier run decided for a site, from its record and its shard."""
    entry = next(found for found in sites_of(done) if found.site == site.name)
    kept_N = torch.zeros(site.num_units * site.members, dtype=torch.bool)
    kept_N[list(entry.pieces)] = True
    if not entry.kept:
        return nothing_left(weight_OI(job.checkpoint.part(index).get_submodule(site.consumer)), site)
    weights, name = job.journal.weights(index), f"{job.checkpoint.layer_prefix(index)}{site.consumer}"
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    consumer = job.checkpoint.part(index).get_submodule(site.consumer)
    return Removal(kept_N, weight.T if output_dim(consumer) == 1 else weight, entry.error, torch.empty(0), bias)


def build(job: Job, done: Sequence[dict[str, Any]], clock: Clock) -> dict[str, Any]:
    """Everything one would want to know of the run afterwards."""
    plan = job.plan
    return {
        "schema": SCHEMA,
        **record_file.provenance(job.checkpoint),
        "options": {**asdict(job.config), "allocation": job.config.chosen_allocation},
        "bos": bos_of(job.tokenizer, job.config.bos),
        "fingerprint": job.fingerprint,
        "versions": versions(),
        "parameters": record_file.sizes(plan.params_before, plan.params_after, plan.bytes_after),
        **_predicted(job),
        **({"search": found} if (found := tried(job.search)) else {}),
        **({"bias_compensation": carried(job.checkpoint)} if job.config.solver == "flap" else {}),
        "sizes": resized_layers(job.checkpoint, [plan.of_layer(index) for index in range(len(job.checkpoint.layers))]),
        "sites": [site for entry in done for site in entry["sites"]],
        "cost": record_file.cost(clock, job.machine.device, job.needs.host),
    }


def _predicted(job: Job) -> dict[str, Any]:
    """The predicted times, or the memory, where that was the target."""
    plan = job.plan
    if isinstance(plan.goal.measure, Memory):
        return {"planned_memory": planned(plan.goal.measure, plan.kept)}
    if job.latency is not None:
        return {"predicted_latency": latency.predicted(job.latency, whole(plan.places), plan.kept)}
    return {}
