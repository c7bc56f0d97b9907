"""A run of ``slimgpt prune`` after all its checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from slimgpt.allocation import latency
from slimgpt.allocation.plan import Plan
from slimgpt.allocation.ranking import RankingTask
from slimgpt.config import PruneConfig
from slimgpt.machine.setup import Machine
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.output.journal import Journal
from slimgpt.output.place import Place
from slimgpt.searching.task import SearchTask
from slimgpt.sites import SolverOptions
from slimgpt.streaming import memory


@dataclass(frozen=True)
class Text:
    """What a model is calibrated on.

    Attributes:
        tokenizer: the model's.
        windows_BT: int64 token ids.
    """

    tokenizer: Any
    windows_BT: torch.Tensor


@dataclass(frozen=True)
class Job:
    """All that a run needs, and nothing that could still refuse it.

    Attributes:
        config: the options.
        checkpoint: the dense model, opened.
        text: what it is calibrated on.
        plan: what every place keeps.
        latency: what layers cost by width, where a time is the target.
        output_config: the smaller model's configuration.
        machine: what it runs on.
        place: the folder to make, and the one beside it to work in.
        journal: finished layers.
        fingerprint: what makes this run this run.
        needs: memory it will take.
        search: what a search is to find first; None where nothing is searched.
        ranking: what a ranking of all units is to find first; None where nothing is ranked.
        finished: the record of a run that is to be resumed, but had come to its end.
    """

    config: PruneConfig
    checkpoint: Checkpoint
    text: Text
    plan: Plan
    latency: latency.LatencyTable | None
    output_config: Any
    machine: Machine
    place: Place
    journal: Journal
    fingerprint: dict[str, Any]
    needs: memory.Needs
    search: SearchTask | None
    ranking: RankingTask | None
    finished: dict[str, Any] | None

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.text.tokenizer

    @property
    def windows_BT(self) -> torch.Tensor:
        """int64 calibration windows."""
        return self.text.windows_BT

    @property
    def solver_options(self) -> SolverOptions:
        """The solver's share of the options."""
        config = self.config
        return SolverOptions(config.damping, config.repair, config.seed, config.grouped_cholesky, config.group_size)

    @property
    def indices(self) -> list[int | None]:
        """Of all that is cut: the layers in order, and None where there are sites beside them."""
        beside: list[int | None] = [None] if self.checkpoint.sites(None) else []
        return [*range(len(self.checkpoint.layers)), *beside]

    @property
    def finds(self) -> bool:
        """What every layer keeps is found on the model, not read off a curve."""
        return self.search is not None or self.ranking is not None
