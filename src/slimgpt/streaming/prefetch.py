"""Reads the next item while the present one is worked on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Calls ``read(index)`` one index ahead, on a thread of its own.

    Args:
        read: what brings item ``index`` into memory.
        count: items 0 … count − 1 exist.
    """

    def __init__(self, read: Callable[[int], T], count: int) -> None:
        self._read = read
        self._count = count
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._next: tuple[int, Future[T]] | None = None

    def get(self, index: int) -> T:
        """Item ``index``; the reading of the one behind it begins. An error while reading is raised here."""
        ahead, self._next = self._next, None
        item = ahead[1].result() if ahead is not None and ahead[0] == index else self._read(index)
        if index + 1 < self._count:
            self._next = (index + 1, self._thread.submit(self._read, index + 1))
        return item

    def close(self) -> None:
        """Wait for the thread and drop what it read."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._next = None
