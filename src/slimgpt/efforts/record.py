"""One record of all stages: what the dense model lost in all, what was learned in all, and each stage's own."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from slimgpt.efforts.prepare import Job
from slimgpt.machine.versions import versions
from slimgpt.model.schema import SCHEMA
from slimgpt.output import record_file
from slimgpt.output.record_sites import SiteRecord, sites_of

OF_OTHERS = ("before", "recovery")  # what a stage's record repeats of the stages before it


def whole(job: Job, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of the whole, from those of its stages in order."""
    prunings = [record for step, record in zip(job.steps, records, strict=True) if step.command == "prune"]
    learned = [
        record["recovery"][-1] for step, record in zip(job.steps, records, strict=True) if step.name == "trained"
    ]
    first, last, sizes = prunings[0], prunings[-1], prunings[-1]["parameters"]
    found = {
        "schema": SCHEMA,
        **{key: first[key] for key in ("source", "family", "before") if key in first},
        "options": {**asdict(job.config), "allocation": job.config.chosen_allocation},
        "bos": first["bos"],
        "fingerprint": job.journal.fingerprint,
        "versions": versions(),
        "parameters": record_file.sizes(first["parameters"]["before"], sizes["after"], sizes["bytes_after"]),
        **{key: last[key] for key in ("predicted_latency", "bias_compensation", "sizes") if key in last},
        "sites": [site.to_json() for site in lasting([sites_of(record) for record in prunings])],
        "cost": _cost([record["cost"] for record in prunings], learned),
        "recovery": learned,
        "proof": records[-1]["proof"],
        "stages": list(_stages(job, records)),
    }
    named: dict[str, Any] = _named_inside(found, f"{job.folder}/")
    return named


def _stages(job: Job, records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for step, record in zip(job.steps, records, strict=True):
        command = shlex.join(["slimgpt", *step.arguments()]).replace(f"{job.folder}/", "")
        own = {key: value for key, value in record.items() if key not in OF_OTHERS}
        yield {"name": step.name, "command": command, **({"record": own} if step.command == "prune" else {})}


def lasting(prunings: Sequence[Sequence[SiteRecord]]) -> list[SiteRecord]:
    """What all prunings together have left of each site, in units of the dense model; errors are the last pruning's."""
    sites = list(prunings[0])
    for later in prunings[1:]:
        found = {(site.layer, site.site): site for site in later}
        sites = [_after(site, found.get((site.layer, site.site))) for site in sites]
    return sites


def _after(site: SiteRecord, later: SiteRecord | None) -> SiteRecord:
    """A site and what a later pruning has left of it; a place that had vanished is in no later record."""
    if later is None:
        return site
    if site.kept_members is None:
        return replace(site, kept=tuple(site.kept[unit] for unit in later.kept), error=later.error)
    members = tuple(site.kept_members[piece] for piece in later.pieces)
    units = tuple(dict.fromkeys(member // site.members for member in members))
    return replace(site, kept=units, kept_members=members, error=later.error)


def _cost(costs: Sequence[Mapping[str, Any]], learned: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds of all stages by what they were spent on, and the highest peaks."""
    seconds: dict[str, float] = {}
    for part in (*costs, *learned):
        for name, value in part["seconds"].items():
            seconds[name] = round(seconds.get(name, 0.0) + value, 3)
    peaks = {
        key: max((part[key] for part in (*costs, *learned) if part.get(key) is not None), default=None)
        for key in ("planned_host_bytes", "peak_host_bytes", "peak_device_bytes")
    }
    return {"seconds": seconds, **peaks, "device": costs[0]["device"]}


def _named_inside(content: Any, folder: str) -> Any:
    """Plain data whose paths in the working folder, which goes, are told from there."""
    if isinstance(content, Mapping):
        return {key: _named_inside(value, folder) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_named_inside(value, folder) for value in content]
    return content.removeprefix(folder) if isinstance(content, str) else content
