"""This machine's memory, and the folder where things are kept between runs."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


MAPPED_BYTES = 32 << 20  # its DEFAULT_MMAP_THRESHOLD_MAX


def keep_memory() -> None:
    """Have glibc keep freed memory for the next tensor; nothing elsewhere.

    By itself it gives every block above 32 MB back to the kernel as soon as it is free, and the kernel zeroes the pages
    of the next one: a training step whose tensors are that large spends up to half of its time there.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def make_room(num_bytes: int) -> None:
    """Have glibc give freed memory back to the kernel before something of this size is asked of it; nothing elsewhere.

    What is larger than 32 MiB it maps anew, and has no use there for the hundreds of megabytes that it may have kept.
    Smaller things come out of just these, and giving them back costs a small model a fifth of its time.
    """
    if platform.libc_ver()[0] == "glibc" and num_bytes > MAPPED_BYTES:
        ctypes.CDLL(None).malloc_trim(0)


def cache_folder(kind: str) -> Path:
    """Where things of one kind are kept between runs: below ``$SLIMGPT_CACHE``, or ``~/.cache/slimgpt``."""
    return Path(os.path.expanduser(os.environ.get("SLIMGPT_CACHE") or "~/.cache/slimgpt")) / kind


def peak_host_bytes() -> int:
    """Largest resident size of this process so far; where no system tells, the present one."""
    if resource is None:
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
