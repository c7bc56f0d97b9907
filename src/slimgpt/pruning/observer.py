"""What a run tells whoever watches it, and what it hands over at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class PruneResult:
    """Where the smaller model is, and its full record (what ``slimgpt.json`` holds)."""

    path: Path
    record: dict[str, Any]
