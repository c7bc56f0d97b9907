"""A folder for one run at a time.

The kernel keeps the lock, on the folder itself: no file is left behind, and it ends with the process however that dies.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from slimgpt.errors import OutputError


class FolderLock:
    """Keeps other runs out of a folder from :meth:`acquire` to :meth:`release`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Lock the folder, if there is one; holding it already is enough.

        Raises:
            OutputError: another run holds it.
        """
        if self._descriptor is not None or not self._folder.is_dir():
            return
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise OutputError(
                f"another slimgpt run is at work in {self._folder}: let it finish, or end it; nothing was touched."
            ) from error
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
