"""Whoever watches a recovery."""

from __future__ import annotations

from slimgpt.recovery.job import Job


class RecoverObserver:
    """What a recovery tells whoever watches it. Does nothing itself; the command line shows how far it is."""

    def said(self, text: str) -> None:
        """Something that people should know before work starts."""

    def planned(self, job: Job) -> None:
        """Everything is checked and decided; work starts when this returns."""

    def taught(self, tokens: int) -> None:
        """The teacher has read so many tokens."""

    def training(self) -> None:
        """Training begins."""

    def stepped(self, step: int) -> None:
        """So many optimiser steps are done."""

    def noted(self, loss: float) -> None:
        """The training loss of late."""

    def measured(self, step: int, perplexity: float) -> None:
        """Held-out perplexity after so many steps."""

    def writing(self) -> None:
        """Training is over; the folder is put together."""
