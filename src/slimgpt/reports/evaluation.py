"""What an evaluation found, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from slimgpt.evaluation import EvalObserver
from slimgpt.reports.loudness import out
from slimgpt.reports.progress import Stages


class EvaluationProgress(Stages, EvalObserver):
    """Says what an evaluation is doing, and how much of it is done where its length is known."""

    def pause(self) -> None:
        """Make room on a terminal for the bar of the harness, which tells more."""
        self.begin("tasks, by lm-evaluation-harness")
        self.hide()


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
    "never": "no beginning-of-sequence token was added",
    "always": "each starts with a beginning-of-sequence token",
    "text": "one beginning-of-sequence token stands before the text",
}
