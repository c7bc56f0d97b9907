"""What ``slimgpt recover`` shows: the plan, one bar for the teacher, one for training, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slimgpt.report.console import err, mebibytes, out


class RecoveryProgress:
    """Prints the plan, then shows bars with loss, held-out perplexity and the time left."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% · {task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
        )
        self._loss = self._perplexity = ""

    def planned(self, job: Any) -> None:
        """Print the plan and start the bars."""
        tokens = sum(len(row.ids) for row in job.train)
        out.print(
            f"{len(job.train):,} rows with {tokens:,} tokens to learn from, {len(job.held_out):,} to measure with; "
            f"{job.num_steps:,} optimiser steps of {job.config.batch_size} rows. "
            f"{'All weights' if job.config.full else f'LoRA of rank {job.config.rank}'} towards "
            f"{f'the predictions of {job.teacher.source}' if job.teacher else 'the data'}, in "
            f"{'bfloat16' if job.bfloat16 else 'float32'} on {job.device}."
        )
        if job.teacher is not None:
            self._teaching = self._progress.add_task("teacher reads", total=tokens, note="")
        self._training = self._progress.add_task("training", total=job.num_steps, note="")
        self._progress.start()

    def taught(self, tokens: int) -> None:
        """Move the teacher's bar."""
        self._progress.update(self._teaching, advance=tokens)

    def stepped(self, step: int) -> None:
        """Move the training bar; what an earlier run had done counts as done."""
        self._progress.update(self._training, completed=step)

    def noted(self, loss: float) -> None:
        """Show the loss."""
        self._loss = f"loss {loss:.3f} "
        self._note()

    def measured(self, step: int, perplexity: float) -> None:
        """Show the held-out perplexity; the teacher is done by then, others' share and what was kept included."""
        for task in self._progress.tasks[:-1]:
            self._progress.update(task.id, completed=task.total)
        self._perplexity = f"perplexity {perplexity:.2f}"
        self._note()

    def _note(self) -> None:
        self._progress.update(self._training, note=self._loss + self._perplexity)

    def close(self) -> None:
        """Take the bars down, also after an error."""
        if self._progress.live.is_started:
            self._progress.stop()


def print_recovery(record: Mapping[str, Any]) -> None:
    """The last recovery of a record."""
    entry = record["recovery"][-1]
    table = Table(title="Recovery", title_justify="left")
    for column in ("optimiser step", "training loss", "held-out perplexity"):
        table.add_column(column, justify="right")
    for row in entry["history"]:
        if "eval_perplexity" in row:
            best = " (kept)" if row["step"] == entry["best_step"] else ""
            loss = f"{row['loss']:.4f}" if "loss" in row else ""
            table.add_row(str(row["step"]), loss, f"{row['eval_perplexity']:.3f}{best}")
    out.print(table)
    if entry["options"]["extrapolate"]:
        out.print(f"On along the way from the first weights through these: to {entry['extrapolated_to']:g} of it.")
    seconds = entry["seconds"]
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())
    held_out = entry["held_out"]
    out.print(
        f"Held-out perplexity {held_out['perplexity_before']:.3f} → {held_out['perplexity_after']:.3f} over "
        f"{held_out['learned_tokens']:,} tokens in {sum(seconds.values()):.0f} s ({stages}); peak memory "
        f"{mebibytes(entry['peak_host_bytes'])}."
    )
