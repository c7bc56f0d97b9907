"""What the proof of a finished folder takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from slimgpt.proof.proving import SMALL
from slimgpt.streaming.memory import Stage


def proved(
    stages: Sequence[Stage], num_bytes: int, written: torch.dtype, computed: torch.dtype, device: torch.device
) -> list[Stage]:
    """The stages with that of a proof behind them, of a folder of ``num_bytes``: by the whole model, from files that
    are mapped meanwhile, where that takes no more than the other stages do, or is small.
    """
    on_cpu = device.type == "cpu"
    weights = num_bytes * computed.itemsize // written.itemsize
    if num_bytes + weights > max(SMALL, *(stage.most(on_cpu) for stage in stages)):
        return list(stages)
    return [*stages, Stage("its proof", {"the whole small model": weights}, {"its files": num_bytes})]
