"""What ``slimgpt recover`` shows: the plan, how far teacher and training are, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from slimgpt.recovery import RecoverObserver
from slimgpt.reports.console import beginning
from slimgpt.reports.loudness import err, out, plans
from slimgpt.reports.memory import mebibytes, needs_lines
from slimgpt.reports.progress import WRITING, Headway


class RecoveryProgress(Headway, RecoverObserver):
    """Prints the plan, then shows the teacher's reading and the training, with loss and held-out perplexity."""

    def __init__(self) -> None:
        super().__init__(err)
        self._loss = self._perplexity = ""

    def planned(self, job: Any) -> None:
        """Print the plan; the teacher's reading, where it reads ahead, and the training are a piece of work each."""
        tokens = sum(len(row.ids) for row in job.train)
        self.hide()
        plans.print(
            f"{len(job.train):,} rows with {tokens:,} tokens to learn from, {len(job.held_out):,} to measure with, "
            f"{beginning(job)}; "
            f"{job.num_steps:,} optimiser steps of {job.config.batch_size} rows. "
            f"{'All weights' if job.config.full else f'LoRA of rank {job.config.rank}'} towards "
            f"{f'the predictions of {job.teacher.source}' if job.teacher else 'the data'}, in "
            f"{'bfloat16' if job.bfloat16 else 'float32'} on {job.device}."
        )
        plans.print(needs_lines(job.needs, job.device, job.processes.size))
        self._num_steps = job.num_steps
        if job.reads_ahead:
            self.begin("teacher reads", tokens)

    def training(self) -> None:
        """Training begins."""
        self.begin("training", self._num_steps)

    def writing(self) -> None:
        """The last piece of work."""
        self.begin(WRITING)

    def taught(self, tokens: int) -> None:
        """The teacher has read more."""
        self.advance(tokens)

    def stepped(self, step: int) -> None:
        """What an earlier run had done counts as done."""
        self.reach(step)

    def noted(self, loss: float) -> None:
        """Show the loss."""
        self._loss = f"loss {loss:.3f}"
        self._show()

    def measured(self, step: int, perplexity: float) -> None:
        """Show the held-out perplexity."""
        self._perplexity = f"perplexity {perplexity:.2f}"
        self._show()

    def _show(self) -> None:
        self.note(" ".join(filter(None, (self._loss, self._perplexity))))


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
