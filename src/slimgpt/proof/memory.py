"""What the proof of a finished folder takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from slimgpt.streaming.memory import Stage

SMALL = 1 << 30  # bytes that any run may take


def weights_bytes(num_bytes: int, written: torch.dtype, computed: torch.dtype, device: torch.device) -> int:
    """What the weights of a whole model take, opened from files of ``num_bytes`` and beside them: nothing on a CPU
    that computes in the dtype of the files, for there they are the mapped files.
    """
    if device.type == "cpu" and written == computed:
        return 0
    return num_bytes * computed.itemsize // written.itemsize


def proved(
    stages: Sequence[Stage], num_bytes: int, written: torch.dtype, computed: torch.dtype, device: torch.device
) -> list[Stage]:
    """The stages with that of a proof behind them, of a folder of ``num_bytes``: by the whole model, from files that
    are mapped meanwhile, where that takes no more than the other stages do, or is small.
    """
    on_cpu = device.type == "cpu"
    weights = weights_bytes(num_bytes, written, computed, device)
    if num_bytes + weights > max(SMALL, *(stage.most(on_cpu) for stage in stages)):
        return list(stages)
    return [*stages, Stage("its proof", {"the whole small model": weights}, {"its files": num_bytes})]
