"""Room for the activations of all calibration tokens: in memory, or in a file that is mapped into it.

Sizes are claimed before they are filled, so that a disk that is too small is an error here and not a crash later. A
file loses its name as soon as it is mapped: its space comes back with its tensor's, and also when the process dies.
"""

from __future__ import annotations

import mmap
import os
import weakref
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from slimgpt.errors import OutputError


class ActivationRoom:
    """Named tensors on the host in one dtype.

    Args:
        dtype: of everything kept here.
        folder: where the files go; None keeps all in memory.
        pinned: memory that a GPU copies from and to without waiting (ignored with a folder).
    """

    def __init__(self, dtype: torch.dtype, folder: Path | None = None, pinned: bool = False) -> None:
        self._dtype = dtype
        self._folder = folder
        self._pinned = pinned
        self._files: list[weakref.ref[mmap.mmap]] = []

    def empty(self, name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """An uninitialised tensor of this shape, as good as ``torch.empty``.

        Raises:
            OutputError: the disk has no room for it.
        """
        if self._folder is None:
            return torch.empty(shape, dtype=self._dtype, pin_memory=self._pinned)
        path = self._folder / f"{name}.activations"
        size = torch.Size(shape).numel()
        try:
            _claim(path, size * self._dtype.itemsize)
            mapping = _mapped(path)
        finally:
            path.unlink(missing_ok=True)
        self._files.append(weakref.ref(mapping))
        return torch.frombuffer(mapping, dtype=self._dtype).view(shape)

    def let_go(self) -> None:
        """Between two batches: what is in files is not in the memory of this process, until it is looked at again."""
        for file in self._files:
            mapping = file()
            if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
                mapping.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Remove the folder; the space is given back with the last tensor."""
        if self._folder is not None:
            with suppress(OSError):  # somebody else's files may be there too
                self._folder.rmdir()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def _claim(path: Path, num_bytes: int) -> None:
    """Make the file with all its blocks: writing to a mapped hole on a full disk would kill the process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                file.truncate(num_bytes)
    except OSError as error:
        raise OutputError(
            f"{path.parent} has no room for {num_bytes / 2**20:,.0f} MiB of activations ({error.strerror}). Finished "
            "layers are kept: make room, or choose another disk with --offload-dir, and give the same command with "
            "--resume."
        ) from error
