"""Tables and progress bars on the terminal. Results go to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slimgpt.arch.family import ATTENTION, FFN, Family
from slimgpt.biases import carried
from slimgpt.card import layer_row
from slimgpt.driver import Observer
from slimgpt.evaluation import Observer as EvaluationObserver
from slimgpt.job import Job, search_windows
from slimgpt.planning import TOLERANCE

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

    def searching(self, job: Job) -> None:
        """Start a bar for the search."""
        out.print(_needs(job))
        self._start(job, search_windows(job.windows_BT, job.team.size).numel(), SEARCH_PASSES)

    def planned(self, job: Job) -> None:
        """Print the plan and start the bar."""
        self.close()
        print_plan(job)
        self._start(job, job.windows_BT.numel(), PASSES)

    def _start(self, job: Job, num_tokens: int, passes: int) -> None:
        self._num_layers, self._passes = len(job.plan.layers), passes
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        total = num_tokens * passes * self._num_layers
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
    table = Table(title=f"Plan: {job.checkpoint.source} → {job.out}", title_justify="left")
    for column in ("layer", "attention units", "FFN width", "parameters", "removed"):
        table.add_column(column, justify="right")
    for index, (have, keep) in enumerate(zip(plan.budget, plan.layers, strict=True)):
        before = have.attention.num_units * have.attention.unit_params + have.ffn.num_units * have.ffn.unit_params
        after = keep.attention * have.attention.unit_params + keep.ffn * have.ffn.unit_params
        table.add_row(
            str(index),
            f"{have.attention.num_units} → {keep.attention}",
            f"{have.ffn.num_units} → {keep.ffn}",
            f"{after:,}",
            f"{1 - after / before:.1%}",
        )
    out.print(table)
    out.print(
        f"{plan.params_before:,} → {plan.params_after:,} parameters: {plan.ratio:.2%} removed (asked: "
        f"{config.ratio:.2%}); {mebibytes(plan.bytes_after)} on disk. {job.windows_BT.shape[0]} windows of "
        f"{job.windows_BT.shape[1]} tokens, {config.solver} on {job.device}."
    )
    out.print(_needs(job))
    if config.solver == "flap" and (without := [part for part, has in carried(job.checkpoint).items() if not has]):
        out.print(
            f"note: {config.solver} cannot put a bias behind {' and '.join(without)} of this family: left out there."
        )
    if abs(plan.ratio - config.ratio) > TOLERANCE:
        out.print(f"note: whole units and --round-to {config.round_to} allow no closer ratio than {plan.ratio:.2%}.")


def _needs(job: Job) -> str:
    """Memory and disk that the run will take, at the peak."""
    needs, team = job.needs, job.team
    device = "" if needs.on_cpu else f"{mebibytes(needs.device)} on {job.device}, "
    disk = f", {mebibytes(needs.disk)} on disk for activations" if needs.offloaded else ""
    each = f" in each of {team.size} processes" if team.size > 1 else ""
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


class EvaluationProgress(EvaluationObserver):
    """One line that says what an evaluation is doing, with a bar where its length is known; on a terminal alone."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def stage(self, name: str, num_tokens: int | None = None) -> None:
        """Name the stage, and start its bar anew."""
        self._progress.start()
        self._progress.reset(self._task, description=escape(name), total=num_tokens)

    def tokens(self, count: int) -> None:
        """Move the bar."""
        self._progress.advance(self._task, count)

    def pause(self) -> None:
        """Make room for the bar of another library."""
        self._progress.stop()

    def close(self) -> None:
        """Take the line down, also after an error."""
        self._progress.stop()


def print_evaluation(found: Mapping[str, Any]) -> None:
    """What an evaluation found: perplexities with their conventions, then tasks."""
    names = [name for name, entry in found["results"].items() if "perplexity,none" in entry]
    if names:
        _print_perplexities(found, names)
    tasks = [name for name in found["results"] if name not in names]
    if tasks:
        _print_tasks(found, tasks)


def _print_perplexities(found: Mapping[str, Any], names: Sequence[str]) -> None:
    table = Table(title=f"{found['model']} on {found['config']['text']}", title_justify="left")
    for column in ("windows", "perplexity", "nats/token", "bits/byte", "tokens"):
        table.add_column(column, justify="right")
    for name in names:
        entry, how = found["results"][name], found["configs"][name]
        table.add_row(
            f"{how['num_windows']:,} x {how['seqlen']:,}",
            _figure(entry, "perplexity", 3),
            _figure(entry, "nll_per_token", 4),
            _figure(entry, "bits_per_byte", 4),
            f"{how['num_tokens']:,}",
        )
    out.print(table)
    strides = {found["configs"][name]["stride"] for name in names}
    overlap = [found["configs"][name]["seqlen"] > found["configs"][name]["stride"] for name in names]
    steps = f"start every {min(strides)} tokens, and only new tokens count" if any(overlap) else "do not overlap"
    out.print(f"± is one standard error over the predicted tokens. Windows {steps}; {BOS[found['config']['bos']]}.")


def _print_tasks(found: Mapping[str, Any], names: Sequence[str]) -> None:
    table = Table(title=f"{found['model']}: tasks by lm-evaluation-harness", title_justify="left")
    for column in ("task", "metric", "value", "rows", "examples"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for name in names:
        metrics = [key.removesuffix(",none") for key in found["results"][name] if _is_metric(key)]
        rows = found["n-samples"].get(name, {}).get("effective")
        for metric in metrics:
            figure = _figure(found["results"][name], metric, 4)
            table.add_row(name, metric, figure, f"{rows:,}" if rows else "", f"{found['n-shot'].get(name, 0)}")
    out.print(table)
    if found["config"]["limit"] is not None:
        out.print(f"Only the first {found['config']['limit']} rows of each task, so this is no figure to publish.")


def _is_metric(key: str) -> bool:
    return "," in key and "_stderr" not in key


def _figure(entry: Mapping[str, Any], metric: str, digits: int) -> str:
    """A figure with its standard error, where it has one."""
    key = metric if "," in metric else f"{metric},none"
    value, error = entry[key], entry.get(key.replace(",", "_stderr,"))
    shown = f"{value:,.{digits}f}" if isinstance(value, float) else str(value)
    return f"{shown} ± {error:.{digits}f}" if isinstance(error, float) else shown


def print_comparison(found: Mapping[str, Any]) -> None:
    """How two models differ on one text."""
    table = Table(title=f"{found['model']} against {found['against']}: bits per byte", title_justify="left")
    table.add_column("text")
    for column in (found["model"], found["against"], "difference"):
        table.add_column(column, justify="right")
    for row in found["robustness"]:
        ours, theirs = row["model_bits_per_byte"], row["against_bits_per_byte"]
        corruption = "as it is" if row["corruption"] == "none" else row["corruption"]
        table.add_row(corruption, f"{ours:.4f}", f"{theirs:.4f}", f"{ours - theirs:+.4f}")
    out.print(table)
    if found["kl_nats_per_token"] is not None:
        out.print(
            f"Kullback-Leibler divergence {found['kl_nats_per_token']:.4f} nats a token; the likeliest token is the "
            f"same for {found['top1_agreement']:.1%} of them."
        )
    if found["cka"]:
        lowest = min(range(len(found["cka"])), key=found["cka"].__getitem__)
        out.print(
            f"Similarity of the layers' outputs (linear CKA, 1 is equal): lowest {found['cka'][lowest]:.3f} after "
            f"layer {lowest}, {found['cka'][-1]:.3f} after the last."
        )


BOS = {
    "none": "no beginning-of-sequence token was added",
    "text": "one beginning-of-sequence token stands before the text",
    "window": "each starts with a beginning-of-sequence token",
}
