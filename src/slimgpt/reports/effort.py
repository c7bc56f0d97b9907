"""What ``slimgpt prune`` shows where its effort takes several stages: their commands, and which of them is at work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt.config.step import Step
from slimgpt.reports.console import ProgressObserver
from slimgpt.reports.loudness import out, plans
from slimgpt.reports.progress import GETTING_READY
from slimgpt.reports.recovery import RecoveryProgress


class EffortProgress(ProgressObserver):
    """Prints the stages, then shows each of them as its own command does. Of one stage it says nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self._num_stages = 1
        self._training: RecoveryProgress | None = None

    def chained(self, steps: Sequence[Step]) -> None:
        """Print the commands."""
        self._num_stages = len(steps)
        self.hide()
        plans.print(f"{len(steps)} stages, each a command of its own:")
        for number, step in enumerate(steps, start=1):
            plans.print(f"{number}. {shlex.join(['slimgpt', *step.arguments()])}", soft_wrap=True)

    def began(self, number: int) -> None:
        """Each stage's line begins with its number."""
        self.close()
        self.before = f"stage {number + 1}/{self._num_stages}"
        self.begin(GETTING_READY)

    def recovering(self) -> RecoveryProgress:
        """Training has a line of its own, in the place of this one."""
        self.close()
        self._training = RecoveryProgress()
        self._training.before = self.before
        self._training.begin(GETTING_READY)
        return self._training

    def writing(self) -> None:
        """The last piece of work, of a stage or of the whole."""
        self._end_training()
        super().writing()

    def close(self) -> None:
        """Take down whichever line stands."""
        super().close()
        self._end_training()

    def _end_training(self) -> None:
        if self._training is not None:
            self._training.close()
            self._training = None


def print_learned(record: Mapping[str, Any]) -> None:
    """What the trainings among the stages did; nothing where there were none."""
    for number, entry in enumerate(record.get("recovery", []), start=1):
        held_out = entry["held_out"]
        out.print(
            f"Training {number}: held-out perplexity {held_out['perplexity_before']:.3f} → "
            f"{held_out['perplexity_after']:.3f} after {entry['steps']:,} optimiser steps."
        )
