"""This machine's memory, and the folder where things are kept between runs."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
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
    if num_bytes > MAPPED_BYTES:
        give_back()


def give_back() -> None:
    """Have glibc give the memory that it keeps from what was freed back to the kernel; nothing elsewhere.

    Layer after layer leaves holes of its own between what stays, and by itself glibc keeps them all: a third of what a
    run takes. Where a layer takes a second this takes some twenty milliseconds, most of them new pages for the next.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def cache_folder(kind: str) -> Path:
    """Where things of one kind are kept between runs: below ``$SLIMGPT_CACHE``, or ``~/.cache/slimgpt``."""
    return Path(os.path.expanduser(os.environ.get("SLIMGPT_CACHE") or "~/.cache/slimgpt")) / kind


def resident_bytes() -> int:
    """Memory that this process takes now."""
    return int(psutil.Process().memory_info().rss)


def free_bytes() -> int:
    """Memory that this process may still take: what the machine has free, or what is left to its container."""
    free = int(psutil.virtual_memory().available)
    return min([free, *_left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _left_in_groups(own: Path, groups: Path) -> Iterator[int]:
    """Of the limits that Linux has set to this process and to all that is above it (control groups, version 2).

    What the kernel holds of files, and can drop, is free.
    """
    lines = own.read_text().splitlines() if own.is_file() else []
    group = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    folders = [] if group is None else [groups / group, *(groups / group).parents]
    for folder in folders:
        if groups in (folder, *folder.parents):
            with suppress(OSError, ValueError, KeyError):  # no limit, or none that we may read
                limit, taken = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
                held = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(limit - taken + int(held["inactive_file"]), 0)


def peak_host_bytes() -> int:
    """Largest resident size of this process so far; where no system tells, the present one.

    Linux has it in a file; its getrusage counts what the process that has started this one had taken by then.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    if resource is None:
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
