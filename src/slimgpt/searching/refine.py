"""From the curves' allocation to a better one, by trials; what was found is kept in the search folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slimgpt import calibration
from slimgpt.allocation.places import Key
from slimgpt.errors import NumericalError
from slimgpt.machine.seals import intact, seal
from slimgpt.model.embeddings_and_head import head
from slimgpt.searching.allocate import Choices
from slimgpt.searching.cache import LossCurves, identity
from slimgpt.searching.exchange import Known, exchange
from slimgpt.searching.levels import Levels
from slimgpt.searching.programme import solve
from slimgpt.searching.task import SearchTask
from slimgpt.searching.tilt import MAX_CANDIDATES, kinds, tilt
from slimgpt.searching.trial import Trial
from slimgpt.sites import Kept


def refined(
    task: SearchTask,
    curves: LossCurves,
    stage: Callable[[int, str], None],
    tokens: Callable[[int], None],
) -> dict[Key, Kept]:
    """The best allocation that ``--search-candidates`` trials find.

    Raises:
        ConfigError: the goal is more than whole units and minimal widths allow.
        NumericalError: a damped Hessian is singular, or predictions are not finite.
    """
    found = _kept(task)
    if found is None:
        found = _search(task, curves, stage, tokens)
        seal(_path(task), found, identity(task.folder))
    return {Key(*key): Kept(*kept) for key, kept in found["kept"]}


def tried(task: SearchTask | None) -> dict[str, Any] | None:
    """What the trials of a finished search brought, for the run's record."""
    if task is None or not task.num_candidates:
        return None
    found = _kept(task)
    return None if found is None else {"candidates": task.num_candidates, "divergence": found["divergence"]}


def _kept(task: SearchTask) -> dict[str, Any] | None:
    """What was found before."""
    return intact(_path(task), identity(task.folder), "its candidates are tried again")


def _search(
    task: SearchTask,
    curves: LossCurves,
    stage: Callable[[int, str], None],
    tokens: Callable[[int], None],
) -> dict[str, Any]:
    goal, machine = task.goal, task.machine
    choices = Choices.of(curves, goal, task.shape)
    target, num_candidates = choices.target(goal), task.num_candidates
    levels = solve(choices.offers, target, goal.at_least)
    windows_BT = task.tried_BT
    with head(task.checkpoint, machine.device, machine.compute_dtype) as logits:
        trial = Trial(
            task.checkpoint,
            Levels(task.folder, task.damping),
            windows_BT,
            machine.device,
            machine.compute_dtype,
            machine.batch_size,
            logits,
        )
        judge = _Judge(
            trial,
            choices,
            num_candidates,
            stage,
            lambda: tokens(windows_BT.numel() * curves.num_layers),
        )
        start = Known(levels, judge.measure(levels))
        judge.adopt()
        given = (target, goal.at_least, judge)
        known, num_tilts = tilt(
            choices.offers, kinds(curves.places, curves.num_layers), start, *given, min(num_candidates, MAX_CANDIDATES)
        )
        known = exchange(choices.offers, known, *given, num_candidates - num_tilts, task.seed)
    if not math.isfinite(known.loss):
        raise NumericalError(
            "search: the pruned model's predictions are not finite, so that candidates cannot be compared. Try --dtype "
            "bfloat16 or float32, or leave --search-candidates out."
        )
    kept = [[list(key), list(value)] for key, value in choices.kept(known.levels).items()]
    return {"divergence": {"before": start.loss, "after": known.loss}, "kept": kept}


class _Judge:
    """Tries levels out, and tells how it goes."""

    def __init__(
        self,
        trial: Trial,
        choices: Choices,
        num_candidates: int,
        stage: Callable[[int, str], None],
        tried: Callable[[], None],
    ) -> None:
        self._trial = trial
        self._choices = choices
        self._num_candidates = num_candidates
        self._stage = stage
        self._tried = tried
        self._count = 0

    def measure(self, levels: Sequence[int]) -> float:
        """The divergence with these levels."""
        plan = self._choices.kept(levels)
        first = min(self._trial.first_change(plan), self._trial.num_layers - 1)
        self._stage(first, f"search, candidate {self._count} of {self._num_candidates}")
        self._count += 1
        divergence = self._trial.divergence(plan)
        self._tried()
        return divergence

    def adopt(self) -> None:
        """The next ones start from what was measured last."""
        self._trial.adopt()


def _path(task: SearchTask) -> Path:
    """A name for all that the result depends on, beside the search itself."""
    goal = task.goal
    asked = (goal.asked, goal.removes, task.shape, task.num_candidates, task.seed)
    windows = calibration.fingerprint(task.tried_BT)
    return task.folder / f"tried-{hashlib.sha256(repr((*asked, windows)).encode()).hexdigest()[:16]}.json"
