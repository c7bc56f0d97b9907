"""How the layers of one run are worked on: where, in which precision, how many windows at a time, and by whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from slimgpt.machine.processes import Processes


@dataclass(frozen=True)
class Machine:
    """What a run runs on.

    Attributes:
        device: where layers run and sites are solved.
        compute_dtype: dtype of the forward pass.
        stored_dtype: dtype of the written weights.
        batch_size: windows in one forward pass.
        offload_dir: where this process's activations go; None keeps them in memory.
        processes: those that share the work.
    """

    device: torch.device
    compute_dtype: torch.dtype
    stored_dtype: torch.dtype
    batch_size: int
    offload_dir: Path | None
    processes: Processes
