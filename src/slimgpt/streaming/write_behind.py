"""Brings the last item to disk while the next one is worked on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class WriteBehind:
    """Does one piece of writing at a time, on a thread of its own, in the order given."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write-behind")
        self._under_way: Future[object] | None = None

    def start(self, write: Callable[[], object]) -> None:
        """Begin ``write`` once the one before has ended; whatever that one raised is raised here."""
        self.finish()
        self._under_way = self._thread.submit(write)

    def finish(self) -> None:
        """Wait until all is on disk; whatever went wrong is raised here."""
        ended, self._under_way = self._under_way, None
        if ended is not None:
            ended.result()

    def close(self) -> None:
        """Wait, after an error too: nobody writes any more when this returns. Errors are for :meth:`finish`."""
        self._thread.shutdown(wait=True)
