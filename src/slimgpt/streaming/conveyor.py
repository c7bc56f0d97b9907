"""Tensors between host and device: batches on their way there and back while the device computes.

Shapes: B windows, of which a batch is a run of rows; what a window holds does not matter here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def conveyor(host: Tensor, device: torch.device, dtype: torch.dtype) -> Conveyor:
    """What brings batches of ``host`` to ``device`` in ``dtype``."""
    return (CudaConveyor if device.type == "cuda" else Conveyor)(host, device, dtype)


class Conveyor:
    """Copies a batch when it is asked for.

    Args:
        host: B x ..., where all batches are kept.
        device: where batches are worked on.
        dtype: in which they are worked on.
    """

    def __init__(self, host: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self.host = host
        self._device = device
        self._dtype = dtype

    def take(self, rows: slice) -> Tensor:
        """These rows on the device, to be read only: the host's own memory where it is the device."""
        return self.host[rows].to(self._device, self._dtype)

    def put(self, rows: slice, batch: Tensor) -> None:
        """Keep ``batch`` as these rows."""
        self.host[rows].copy_(batch)

    def settle(self) -> None:
        """End a pass over the rows: the copies are done before anything that is asked of the device from here on."""


@dataclass(frozen=True)
class _Arrival:
    """A batch on its way: its first row, its memory on the device, and what tells that it is there."""

    start: int
    batch: Tensor
    there: Any  # torch.cuda.Event


class CudaConveyor(Conveyor):
    """Copies on a stream of its own: the next batch arrives and the last one leaves while this one is worked on.

    The memory on the device does not grow with how far the host runs ahead of it: arriving batches take turns in two
    buffers, and one batch leaves at a time. The host's memory should be pinned; else copies are made one at a time.
    """

    def __init__(self, host: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(host, device, dtype)
        self._copies = torch.cuda.Stream(device)
        self._buffers: list[Tensor] = []
        self._present: _Arrival | None = None
        self._next: _Arrival | None = None
        self._leaving: Tensor | None = None

    def take(self, rows: slice) -> Tensor:
        """These rows on the device, to be read before the batch after the next is taken; those behind them set out."""
        if self._present is None or self._present.start != rows.start:
            if self._next is None or self._next.start != rows.start:
                self._next = self._send(rows)
            self._present, self._next = self._next, None
            self._work.wait_event(self._present.there)
            behind = slice(rows.stop, min(2 * rows.stop - rows.start, len(self.host)))
            if behind.start < behind.stop:
                self._next = self._send(behind)
        return self._present.batch.to(self._dtype)

    def put(self, rows: slice, batch: Tensor) -> None:
        """Keep ``batch``, which nobody may write to any more, as these rows."""
        if self._present is not None and self._present.start == rows.start:
            self._present = None
        self.settle()  # the batch that left before is gone: its memory is free now
        self._copies.wait_stream(self._work)
        with torch.cuda.stream(self._copies):
            self.host[rows].copy_(batch, non_blocking=True)
        self._leaving = batch

    def settle(self) -> None:
        """End a pass over the rows: the copies are done before anything that is asked of the device from here on."""
        self._work.wait_stream(self._copies)
        self._leaving = None

    @property
    def _work(self) -> Any:
        return torch.cuda.current_stream(self._device)

    def _send(self, rows: slice) -> _Arrival:
        """Start copying these rows, once the work on what was in their buffer is done."""
        buffer = self._free_buffer(rows)
        self._copies.wait_stream(self._work)
        with torch.cuda.stream(self._copies):
            buffer.copy_(self.host[rows], non_blocking=True)
        return _Arrival(rows.start, buffer, self._copies.record_event())

    def _free_buffer(self, rows: slice) -> Tensor:
        if len(self._buffers) == 2:
            self._buffers.reverse()
        else:
            self._buffers.insert(0, torch.empty_like(self.host[rows], device=self._device))
        return self._buffers[0][: rows.stop - rows.start]


def to_host(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """On the host in ``dtype``: from a GPU into pinned memory, which torch has at hand for the next one.

    Memory that the system has to find first would take many times as long.
    """
    if tensor.device.type != "cuda":
        return tensor.to("cpu", dtype)
    return torch.empty(tensor.shape, dtype=dtype, pin_memory=True).copy_(tensor)
