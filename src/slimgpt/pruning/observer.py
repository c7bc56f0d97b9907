"""What a run tells whoever watches it, and what it hands over at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slimgpt.config.step import Step
from slimgpt.output.written import Written
from slimgpt.pruning.job import Job


class Observer:
    """What a run tells whoever watches it. Does nothing itself; the command line shows how far it is."""

    def preparing(self, what: str) -> None:
        """Something that takes a while is done before the plan is known."""

    def said(self, text: str) -> None:
        """Something that people should know before work starts."""

    def searching(self, job: Job) -> None:
        """Everything is checked; the search for the best allocation starts when this returns."""

    def planned(self, job: Job) -> None:
        """Everything is checked and decided; pruning starts when this returns."""

    def stage(self, layer: int, stage: str) -> None:
        """A stage of a layer begins."""

    def tokens(self, count: int) -> None:
        """So many tokens went through one stage of a layer."""

    def writing(self) -> None:
        """All layers are done; the folder is put together."""

    def chained(self, steps: Sequence[Step]) -> None:
        """The run takes several commands, and is checked; the first one starts when this returns."""

    def began(self, number: int) -> None:
        """One of these commands begins, counted from 0. What this observer hears next is of it."""

    def recovering(self) -> Any:
        """The :class:`~slimgpt.RecoverObserver` that watches a training among them; None: nobody does."""
        return None


class PruneResult(Written):
    """The smaller model."""
