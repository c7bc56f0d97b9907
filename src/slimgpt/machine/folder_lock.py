"""A folder for one run at a time.

The lock is on a file in the folder, by filelock, which knows what each system has: flock, or LockFileEx on Windows. It
ends with the process however that dies. On a disk that has no locks a file that says who made it stands in for one.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from slimgpt.errors import OutputError

LOCK, STAND_IN = "slimgpt.lock", "slimgpt.locked"
FILES = {LOCK, STAND_IN}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def partial_folder(out: Path) -> Path:
    """Where a run works until OUT is done, and what it locks: two runs into one OUT are one too many."""
    return out.parent / f"{out.name}.partial"


class FolderLock:
    """Keeps other runs out of a folder from :meth:`acquire` to :meth:`release`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: BaseFileLock | None = None
        self._found = False

    def acquire(self) -> None:
        """Lock the folder, which is made where there is none; holding it already is enough.

        Raises:
            OutputError: another run holds it, or it cannot be a folder.
        """
        if self._lock is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._found = (self._folder / LOCK).exists()
            self._lock = _locked(self._folder)
        except Timeout as error:
            raise OutputError(
                f"another slimgpt run is at work in {self._folder}: let it finish, or end it; nothing was touched."
            ) from error
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(f"{self._folder} is no folder: move it away, or choose another name.") from error

    def release(self) -> None:
        """Let others in. A folder with nothing else in it goes; in any other the file stays if it was found there: it
        says whose the folder is that a killed run has left.
        """
        if self._lock is None:
            return
        empty = self._folder.is_dir() and set(os.listdir(self._folder)) <= FILES
        if empty or not self._found:
            with suppress(OSError):  # Windows removes no file that is open: there the library does it
                (self._folder / LOCK).unlink()
        self._lock.release()
        self._lock = None
        if empty:
            with suppress(OSError):  # somebody came in
                self._folder.rmdir()

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _locked(folder: Path) -> BaseFileLock:
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock = SoftFileLock(folder / STAND_IN, thread_local=False)
        lock.acquire(timeout=0)
    return lock


def clear(folder: Path) -> None:
    """Remove whatever lies in a folder beside its lock."""
    for path in folder.iterdir():
        if path.name not in FILES:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
