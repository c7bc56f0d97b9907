"""Several processes on one pruning job, started by torchrun: each has a share of the calibration windows.

The leader (rank 0) decides, solves and writes; the others add their statistics and follow. Alone, every method is the
identity.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from slimgpt.errors import ConfigError

T = TypeVar("T")

PATIENCE = timedelta(hours=6)  # the others wait while the leader solves; torchrun itself notices a rank that died


class Processes:
    """The processes of this run.

    Attributes:
        rank: this process, 0 for the leader.
        size: how many there are.
        size_here: how many of them are on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, size_here: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.size_here = size_here

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """Those that torchrun has started, over NCCL for GPUs and gloo for CPUs; this one alone without torchrun."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL puts the objects that are passed round
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    @property
    def leads(self) -> bool:
        """This process is the leader."""
        return self.rank == 0

    def share_of(self, windows_BT: Tensor) -> Tensor:
        """This process's windows: a consecutive run, as equal as can be.

        Raises:
            ConfigError: there are more processes than windows.
        """
        if self.size > len(windows_BT):
            raise ConfigError(
                f"{self.size} processes for {len(windows_BT)} calibration windows: some would have none. Start fewer, "
                "or raise --samples."
            )
        return windows_BT.tensor_split(self.size)[self.rank]

    def sum_(self, tensors: list[Tensor]) -> None:
        """Add up tensors over all processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def from_leader(self, value: T) -> T:
        """The leader's value, on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def meet(self) -> None:
        """Wait until everybody has come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait for the others, then part."""
        self.meet()
        if self.size > 1:
            dist.destroy_process_group()
