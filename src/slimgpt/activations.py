"""Room for the activations of all calibration tokens: in memory, or in a file that is mapped into it.

Sizes are claimed before they are filled, so that a disk that is too small is an error here and not a crash later.
"""

from __future__ import annotations

import os
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
        self._files: dict[str, Path] = {}

    def empty(self, name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """An uninitialised tensor of this shape, as good as ``torch.empty``.

        Raises:
            OutputError: the disk has no room for it.
        """
        if self._folder is None:
            return torch.empty(shape, dtype=self._dtype, pin_memory=self._pinned)
        path = self._files[name] = self._folder / f"{name}.activations"
        size = torch.Size(shape).numel()
        _claim(path, size * self._dtype.itemsize)
        return torch.from_file(str(path), shared=True, size=size, dtype=self._dtype).view(shape)

    def release(self, *names: str) -> None:
        """Give the space of tensors back; they must not be used any more."""
        for name in names:
            if name in self._files:
                self._files.pop(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Give all space back."""
        self.release(*list(self._files))
        if self._folder is not None:
            with suppress(OSError):  # somebody else's files may be there too
                self._folder.rmdir()


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
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{path.parent} has no room for {num_bytes / 2**20:,.0f} MiB of activations ({error.strerror}): choose "
            "another disk with --offload-dir, or fewer --samples."
        ) from error
