"""What a search is asked, and with what it works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from slimgpt.allocation.goal import Goal
from slimgpt.allocation.places import Place
from slimgpt.allocation.shape import Shape
from slimgpt.machine.setup import Machine
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.searching.windows import search_windows, tried_windows


@dataclass(frozen=True)
class SearchTask:
    """A search for the best allocation.

    Attributes:
        checkpoint: the dense model.
        windows_BT: int64 calibration windows of the whole run.
        places: what the model has.
        goal: how much has to go.
        machine: where layers run.
        folder: where curves and metrics are or will be.
        ours: the folder goes with the run, so that it may be filled anew whatever it holds; the user's own may not.
        damping: of the solver.
        seed: of what is drawn.
        shape: what the layers may look like.
        num_candidates: allocations that are tried out.
    """

    checkpoint: Checkpoint
    windows_BT: Tensor
    places: Sequence[Place]
    goal: Goal
    machine: Machine
    folder: Path
    ours: bool
    damping: float
    seed: int
    shape: Shape
    num_candidates: int

    @property
    def searched_BT(self) -> Tensor:
        """The windows that are searched on."""
        return search_windows(self.windows_BT, self.machine.processes.size)

    @property
    def tried_BT(self) -> Tensor:
        """The windows that candidates are judged on."""
        return tried_windows(self.num_candidates, self.windows_BT, self.machine.processes.size)
