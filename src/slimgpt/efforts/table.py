"""What ``--effort high`` is made of, as data, and the commands that this makes. Why these: docs/quality.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from slimgpt.calibration.self_text import SELF
from slimgpt.config import PruneConfig
from slimgpt.config.step import Step

NUM_PRUNINGS: Mapping[float, int] = {0.25: 1, 0.5: 2, 0.75: 3, 0.9: 4}
"""Removed share of all parameters, at most -> prunings that it takes, of equal parts of the dense model."""

PRUNING: Mapping[str, Any] = {"attention_units": "queries", "search_candidates": 24}

_DISTILLATION: Mapping[str, Any] = {
    "warmup": 10,
    "batch_size": 8,
    "epochs": 4.0,
    "hidden_weight": 10.0,
    "loss_on": "all",
    "held_out": 0.01,
    "eval_every": 100,
    "keep": "last",
}
"""``recipes/recover-distill.yaml``, but for passes over the text and its own tokens in the loss, which so few tokens
would have learned by heart; and the last checkpoint counts, as the few rows set aside tell checkpoints badly apart."""

TRAININGS: Mapping[str, Mapping[str, Any]] = {
    "all weights": {"full": True, "learning_rate": 4e-4, **_DISTILLATION},
    "adapters": {"rank": 16, "learning_rate": 1e-3, **_DISTILLATION},
}
"""The first that memory has room for."""

ROW = 256
"""Tokens in a row that is trained on, or a calibration window where that is shorter."""

PRUNED, TRAINED = "pruned", "trained"

AMOUNTS = ("ratio", "target_params", "target_size", "target_memory", "target_latency")
OF_THE_WHOLE = {"model", "out", "recipe", "effort", "report", "resume", "force", *AMOUNTS}


@dataclass(frozen=True)
class Stages:
    """What a run's commands follow from.

    Attributes:
        config: the options of the whole.
        removed: share of all parameters that goes; None where a target in memory or time does not say.
        folder: of the stages.
        text: the calibration windows, one a line.
        training: options of the training after each pruning.
    """

    config: PruneConfig
    removed: float | None
    folder: Path
    text: Path
    training: Mapping[str, Any]

    @property
    def num_prunings(self) -> int:
        """How many there are."""
        if self.why_in_one is not None:
            return 1
        return num_prunings(self.removed or 0.0)

    @property
    def why_in_one(self) -> str | None:
        """What keeps a run from having several prunings, whatever its ratio."""
        if self.removed is None:
            return "a target in memory or time does not say what share goes, so that there is nothing to divide"
        if self.config.calibration == SELF:
            return "a later step would have text that the pruned model writes"
        return None

    def steps(self) -> Iterator[Step]:
        """The commands, in order."""
        model = self.config.model
        for index in range(self.num_prunings):
            pruned, trained = (str(self.folder / f"{index + 1}-{name}") for name in (PRUNED, TRAINED))
            yield Step(PRUNED, "prune", (model, pruned), self._pruning(index))
            yield Step(TRAINED, "recover", (pruned, trained), self._learning())
            model = trained

    def _pruning(self, index: int) -> dict[str, Any]:
        own = {field.name: getattr(self.config, field.name) for field in fields(self.config)}
        defaults = {field.name: field.default for field in fields(self.config)}
        given = {name: value for name, value in own.items() if name not in OF_THE_WHOLE and value != defaults[name]}
        if index > 0:
            given.pop("search_cache", None)  # it is of the dense model
        return {**self._amount(index), **usual_of(self.config), **given}

    def _amount(self, index: int) -> dict[str, Any]:
        """A share of what the steps before have left; the last one meets a target itself."""
        targets = {name: value for name in AMOUNTS[1:] if (value := getattr(self.config, name)) is not None}
        if targets and index == self.num_prunings - 1:
            return targets
        assert self.removed is not None
        before, after = (1 - self.removed * step / self.num_prunings for step in (index, index + 1))
        return {"ratio": round(1 - after / before, 4)}

    def _learning(self) -> dict[str, Any]:
        shared = {name: getattr(self.config, name) for name in ("bos", "device", "seed")}
        given = {name: value for name, value in shared.items() if value not in ("auto", 0)}
        beside = {"data": str(self.text), "teacher": self.config.model, "seqlen": min(ROW, self.config.seqlen)}
        return {**beside, **self.training, **given}


def num_prunings(removed: float) -> int:
    """For a share of all parameters; what is more than any pruning removes is left to the command to refuse."""
    return next((number for most, number in NUM_PRUNINGS.items() if removed <= most), max(NUM_PRUNINGS.values()))


def usual_of(config: PruneConfig) -> dict[str, Any]:
    """What of ``PRUNING`` the other options leave room for."""
    fits = {
        "attention_units": config.solver != "flap" and config.target_latency is None,
        "search_candidates": config.chosen_allocation == "searched",
    }
    return {name: value for name, value in PRUNING.items() if fits[name]}
