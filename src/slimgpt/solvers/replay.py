"""Work that is done again and again on the same memory: a GPU is told once, and repeats it without the host.

Where a piece of work is hundreds of small kernels, telling the GPU of each takes longer than the kernel itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch


def repeatable(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What does ``work`` once whenever it is called: on CUDA a graph of its kernels, elsewhere ``work`` itself.

    On CUDA, ``work`` is called here, but nothing happens on the device yet. It must neither wait for the device nor
    depend on values there, and tensors that it makes and that are read outside belong to the graph: the next call, or
    the next graph, overwrites them.
    """
    return _recorder(device).record(work) if device.type == "cuda" else work


@cache
def _recorder(device: torch.device) -> _Recorder:
    return _Recorder(device)


class _Recorder:
    """Records graphs on one device, which share the memory they work in: each must be done before the next is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._last: Any = None  # torch.cuda.CUDAGraph; the memory is there as long as one graph is
        with torch.cuda.stream(self._stream):  # cuBLAS takes its workspace here, and not inside a graph
            some = torch.eye(64, dtype=torch.float64, device=device)
            some @ some, some[:1] @ some

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        present = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            pool = {} if self._last is None else {"pool": self._last.pool()}
            graph.capture_begin(**pool, capture_error_mode="thread_local")  # other threads may go on with theirs
            try:
                work()
            finally:
                graph.capture_end()
        present.wait_stream(self._stream)
        self._last = graph
        return graph.replay
