"""What a run costs in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds by stage, summed over layers."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._cpu_before = time.process_time()

    @property
    def cpu_seconds(self) -> float:
        """Seconds of all cores together since the clock was made."""
        return time.process_time() - self._cpu_before

    @contextmanager
    def timed(self, stage: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the time spent inside to ``stage``, what a GPU still has queued included."""
        start = time.perf_counter()
        try:
            yield
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
