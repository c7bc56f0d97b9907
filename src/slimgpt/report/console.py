"""Tables and progress bars on the terminal. Results go to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slimgpt.allocation.budget import LayerPlan, SiteBudget
from slimgpt.allocation.latency import predicted
from slimgpt.allocation.plan import ENOUGH_TOKENS, TOLERANCE, dense_layers, tokens_per_input
from slimgpt.arch.family import ATTENTION, FFN, Family
from slimgpt.model.biases import carried
from slimgpt.output.card import layer_row
from slimgpt.pruning.driver import Observer
from slimgpt.pruning.job import Job
from slimgpt.report.latency import latency_line

out = Console(markup=False)  # what is printed holds names of users' files, which may have brackets
err = Console(stderr=True)

SEARCH_PASSES = 2  # forward and back
PASSES = 3  # stages of a layer that carry tokens: both sites' statistics, and the advance


def mebibytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**33 else f"{count / 2**30:,.1f} GiB"


class ProgressObserver(Observer):
    """Prints the plan, then shows one bar over all layers and stages, with tokens per second and time left."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("layer {task.fields[layer]} · {task.fields[stage]:<22}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% · {task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
        )

    def preparing(self, what: str) -> None:
        """Say why there is no plan yet."""
        err.print(escape(what))

    def searching(self, job: Job) -> None:
        """Start a bar for the search."""
        out.print(_needs(job))
        searched, tried = (
            (job.windows_BT, job.windows_BT[:0]) if (task := job.search) is None else (task.searched_BT, task.tried_BT)
        )
        trials = tried.numel() * (job.config.search_candidates + 1)
        self._start(job, SEARCH_PASSES * searched.numel() + trials, SEARCH_PASSES)

    def planned(self, job: Job) -> None:
        """Print the plan and start the bar."""
        self.close()
        print_plan(job)
        self._start(job, PASSES * job.windows_BT.numel(), PASSES)

    def _start(self, job: Job, num_tokens: int, passes: int) -> None:
        self._num_layers, self._passes = len(job.plan.layers), passes
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        total = num_tokens * self._num_layers
        self._task = self._progress.add_task("", total=total, layer=f"0/{self._num_layers}", stage="embed", speed="")
        self._progress.start()

    def stage(self, layer: int, stage: str) -> None:
        """Name the stage."""
        self._progress.update(self._task, layer=f"{layer + 1}/{self._num_layers}", stage=stage)

    def tokens(self, count: int) -> None:
        """Move the bar."""
        speed = self._progress.tasks[0].speed
        label = f"{speed / self._passes / 1000:,.1f}k token·layers/s" if speed else ""
        self._progress.update(self._task, advance=count, speed=label)

    def close(self) -> None:
        """Take the bar down, also after an error."""
        if self._progress.live.is_started:  # taking down a bar that never stood would print an empty line
            self._progress.stop()


def print_plan(job: Job) -> None:
    """What the run is going to do: widths, parameters and size, by layer."""
    plan, config = job.plan, job.config
    table = Table(title=f"Plan: {job.checkpoint.source} → {job.place.out}", title_justify="left")
    for column in ("layer", "attention units", "FFN width", "parameters", "removed"):
        table.add_column(column, justify="right")
    for index, (have, keep) in enumerate(zip(plan.budget, plan.layers, strict=True)):
        before = have.attention.params(have.attention.num_units) + have.ffn.params(have.ffn.num_units)
        after = have.attention.params(keep.attention, keep.queries) + have.ffn.params(keep.ffn)
        table.add_row(
            str(index),
            attention_units(have.attention, keep),
            f"{have.ffn.num_units} → {keep.ffn}",
            f"{after:,}",
            f"{1 - after / before:.1%}",
        )
    out.print(table)
    out.print(
        f"{plan.params_before:,} → {plan.params_after:,} parameters: {plan.ratio:.2%} removed (asked: "
        f"{plan.goal.asked}); {mebibytes(plan.bytes_after)} on disk. {job.windows_BT.shape[0]} windows of "
        f"{job.windows_BT.shape[1]} tokens, {config.solver} on {job.machine.device}."
    )
    if job.latency is not None:
        out.print(latency_line(predicted(job.latency, dense_layers(plan.budget), plan.layers)))
    out.print(_needs(job))
    if config.solver == "flap" and (without := [part for part, has in carried(job.checkpoint).items() if not has]):
        out.print(
            f"note: {config.solver} cannot put a bias behind {' and '.join(without)} of this family: left out there."
        )
    tokens, num_inputs = tokens_per_input(job.checkpoint, job.windows_BT.numel())
    if config.repairs and plan.ratio > 0 and tokens < ENOUGH_TOKENS:
        out.print(
            f"note: {job.windows_BT.numel():,} calibration tokens are {tokens:.0f} for each of the {num_inputs:,} "
            f"inputs of the widest projection; with fewer than {ENOUGH_TOKENS} repair lacks data: raise --samples."
        )
    if config.asked_ratio is not None and abs(plan.ratio - config.asked_ratio) > TOLERANCE:
        out.print(f"note: whole units and --round-to {config.round_to} allow no closer ratio than {plan.ratio:.2%}.")


def attention_units(have: SiteBudget, keep: LayerPlan) -> str:
    """Units before and after, and where query heads go by themselves, those in each."""
    if keep.queries is None:
        return f"{have.num_units} → {keep.attention}"
    return f"{have.num_units} x {have.members} → {keep.attention} x {keep.queries}"


def _needs(job: Job) -> str:
    """Memory and disk that the run will take, at the peak."""
    needs, num_processes = job.needs, job.machine.processes.size
    device = "" if needs.on_cpu else f"{mebibytes(needs.device)} on {job.machine.device}, "
    disk = f", {mebibytes(needs.disk)} on disk for activations" if needs.offloaded else ""
    each = f" in each of {num_processes} processes" if num_processes > 1 else ""
    return f"Needs about {device}{mebibytes(needs.host)} of memory{disk}{each}."


def print_record(record: Mapping[str, Any]) -> None:
    """The finished run, as a table."""
    table = Table(title="Result", title_justify="left")
    for column in ("layer", "attention units", "FFN width", "attention error", "FFN error"):
        table.add_column(column, justify="right")
    for layer in record["layers"]:
        table.add_row(*layer_row(layer))
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
    keys = list(inspection["layers"][0])
    for key in ("layer", *keys):
        table.add_column(key.replace("_", " "), justify="right")
    for index, layer in enumerate(inspection["layers"]):
        table.add_row(str(index), *(f"{layer[key]:,}" for key in keys))
    out.print(table)
    parts = Table(title="Parameters by part", title_justify="left")
    parts.add_column("part")
    parts.add_column("parameters", justify="right")
    parts.add_column("share", justify="right")
    for part, count in inspection["parameters"].items():
        parts.add_row(part, f"{count:,}", f"{count / inspection['parameters']['total']:.1%}")
    out.print(parts)


def print_families(families: Mapping[str, Family]) -> None:
    """What can be pruned, by the model_type of config.json."""
    table = Table(title="Model families", title_justify="left")
    for column in ("model_type", "attention", "FFN"):
        table.add_column(column)
    for model_type, family in families.items():
        table.add_row(model_type, family.pruned[ATTENTION], family.pruned[FFN])
    out.print(table)
