"""Tables and progress on the terminal. Results go to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from slimgpt.allocation.latency import predicted
from slimgpt.allocation.measures import Memory, planned
from slimgpt.allocation.places import Allocation, Place, parts_of, whole
from slimgpt.allocation.plan import ENOUGH_TOKENS, TOLERANCE, Plan, tokens_per_input
from slimgpt.arch.family import Family
from slimgpt.model.beginning import bos_of
from slimgpt.model.biases import carried
from slimgpt.output.record_sites import layer_rows, part_name, sites_of, units_name
from slimgpt.pruning.job import Job
from slimgpt.pruning.observer import Observer
from slimgpt.reports.latency import latency_line
from slimgpt.reports.loudness import err, out, plans
from slimgpt.reports.memory import mebibytes, memory_line, needs_lines
from slimgpt.reports.progress import WRITING, Headway

SEARCH_PASSES = 2  # forward and back
PASSES = 3  # stages of a layer that carry tokens: both sites' statistics, and the advance


class ProgressObserver(Headway, Observer):
    """Prints the plan, then shows how far the run is over all layers and stages, and how fast."""

    def __init__(self) -> None:
        super().__init__(err)

    def preparing(self, what: str) -> None:
        """Say why there is no plan yet."""
        if not err.is_terminal:
            self.said(what)
        self.begin(what)

    def searching(self, job: Job) -> None:
        """The search is one piece of work."""
        plans.print(needs_lines(job.needs, job.machine.device, job.machine.processes.size))
        searched, tried = job.windows_BT, job.windows_BT[:0]
        if job.search is not None:
            searched, tried = job.search.searched_BT, job.search.tried_BT
        trials = tried.numel() * (job.config.search_candidates + 1)
        self._start(job, SEARCH_PASSES * searched.numel() + trials, SEARCH_PASSES)

    def planned(self, job: Job) -> None:
        """Print the plan; pruning is one piece of work."""
        self.hide()
        print_plan(job)
        self._start(job, PASSES * job.windows_BT.numel(), PASSES)

    def _start(self, job: Job, num_tokens: int, passes: int) -> None:
        self._num_layers, self._passes = len(job.checkpoint.layers), passes
        self.begin(f"layer 0/{self._num_layers} · embed", num_tokens * self._num_layers)

    def writing(self) -> None:
        """The last piece of work."""
        self.begin(WRITING)

    def stage(self, layer: int, stage: str) -> None:
        """Name the stage."""
        self.name(f"layer {layer + 1}/{self._num_layers} · {stage}")

    def tokens(self, count: int) -> None:
        """Move the bar."""
        self.advance(count)
        speed = self.task.speed
        self.note(f"{speed / self._passes / 1000:,.1f}k token·layers/s" if speed else "")


def print_plan(job: Job) -> None:
    """What the run is going to do: widths, parameters and size, by layer."""
    plan, config = job.plan, job.config
    plans.print(_plan_table(f"Plan: {job.checkpoint.source} → {job.place.out}", plan))
    plans.print(
        f"{plan.params_before:,} → {plan.params_after:,} parameters: {plan.ratio:.2%} removed (asked: "
        f"{plan.goal.asked}); {mebibytes(plan.bytes_after)} on disk. {job.windows_BT.shape[0]} windows of "
        f"{job.windows_BT.shape[1]} tokens, {beginning(job)}, {config.solver} on {job.machine.device}."
    )
    if job.latency is not None:
        plans.print(latency_line(predicted(job.latency, whole(plan.places), plan.kept)))
    if isinstance(plan.goal.measure, Memory):
        plans.print(memory_line(planned(plan.goal.measure, plan.kept)))
    plans.print(needs_lines(job.needs, job.machine.device, job.machine.processes.size))
    if config.solver == "flap" and (without := [part for part, has in carried(job.checkpoint).items() if not has]):
        plans.print(
            f"note: {config.solver} cannot put a bias behind {' and '.join(without)} of this family: left out there."
        )
    tokens, num_inputs = tokens_per_input(job.checkpoint, job.windows_BT.numel())
    if config.repairs and plan.ratio > 0 and tokens < ENOUGH_TOKENS:
        plans.print(
            f"note: {job.windows_BT.numel():,} calibration tokens are {tokens:.0f} for each of the {num_inputs:,} "
            f"inputs of the widest projection; with fewer than {ENOUGH_TOKENS} repair lacks data: raise --samples."
        )
    if config.asked_ratio is not None and abs(plan.ratio - config.asked_ratio) > TOLERANCE:
        plans.print(f"note: whole units and --round-to {config.round_to} allow no closer ratio than {plan.ratio:.2%}.")


def _plan_table(title: str, plan: Plan) -> Table:
    table = Table(title=title, title_justify="left")
    parts = parts_of(plan.places)
    for column in ("layer", *map(units_name, parts), "parameters", "removed"):
        table.add_column(column, justify="right")
    for layer in dict.fromkeys(place.layer for place in plan.places):
        places = {place.part: place for place in plan.places if place.layer == layer}
        before = sum(place.params(place.whole) for place in places.values())
        after = sum(place.params(plan.kept[place.key]) for place in places.values())
        cells = (kept_units(places[part], plan.kept) if part in places else "–" for part in parts)
        table.add_row(layer_label(layer), *cells, f"{after:,}", f"{1 - after / before:.1%}")
    return table


def layer_label(layer: int | None) -> str:
    """A layer's number; what lies beside the layers is the model's."""
    return "model" if layer is None else str(layer)


def kept_units(place: Place, plan: Allocation) -> str:
    """Units before and after, and where members (query heads) go by themselves, those in each."""
    kept = plan[place.key]
    if kept.members is None:
        return f"{place.num_units} → {kept.units}"
    return f"{place.num_units} x {place.members} → {kept.units} x {kept.members}"


def beginning(job: Any) -> str:
    """What each window or row of a job begins with."""
    token = bos_of(job.tokenizer, job.config.bos)
    return "with no beginning-of-sequence token" if token is None else f"each beginning with {token}"


def print_record(record: Mapping[str, Any]) -> None:
    """The finished run, as a table."""
    table = Table(title="Result", title_justify="left")
    sites = sites_of(record)
    parts = list(dict.fromkeys(site.part for site in sites))
    for column in ("layer", *map(units_name, parts), *(f"{part_name(part)} error" for part in parts)):
        table.add_column(column, justify="right")
    for row in layer_rows(sites):
        table.add_row(*row)
    out.print(table)
    sizes, cost = record["parameters"], record["cost"]
    seconds = cost["seconds"]
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())
    out.print(
        f"{sizes['before']:,} → {sizes['after']:,} parameters ({sizes['removed_ratio']:.2%} removed) in "
        f"{sum(seconds.values()):.0f} s ({stages}); peak memory {mebibytes(cost['peak_host_bytes'])}."
    )


def print_inspection(inspection: Mapping[str, Any]) -> None:
    """Family, sizes by layer and parameters by part."""
    table = Table(title=f"{inspection['model']}: {inspection['family']}", title_justify="left")
    keys = list(dict.fromkeys(key for layer in inspection["layers"] for key in layer))
    for key in ("layer", *keys):
        table.add_column(key.replace("_", " "), justify="right")
    for index, layer in enumerate(inspection["layers"]):
        table.add_row(str(index), *(_cell(layer.get(key)) for key in keys))
    out.print(table)
    parts = Table(title="Parameters by part", title_justify="left")
    parts.add_column("part")
    parts.add_column("parameters", justify="right")
    parts.add_column("share", justify="right")
    for part, count in inspection["parameters"].items():
        parts.add_row(part, f"{count:,}", f"{count / inspection['parameters']['total']:.1%}")
    out.print(parts)
    out.print(f"Known by {inspection['known_by']}.")
    for line in inspection["stays_whole"]:
        out.print(line)


def _cell(value: int | list[str] | None) -> str:
    """A size, or the names of what is gone."""
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(value) if value else "–"


def print_families(families: Mapping[str, Family]) -> None:
    """What can be pruned, by the model_type of config.json."""
    table = Table(title="Model families", title_justify="left")
    parts = list(dict.fromkeys(part for family in families.values() for part in family.pruned))
    for column in ("model_type", *map(part_name, parts)):
        table.add_column(column)
    for model_type, family in families.items():
        table.add_row(model_type, *(family.pruned.get(part, "–") for part in parts))
    out.print(table)
