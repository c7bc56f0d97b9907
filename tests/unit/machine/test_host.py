"""What glibc does with freed memory, seen by the pages that the kernel has to give."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from slimgpt.machine import host

PROGRAM = """
import resource, sys, torch
from slimgpt.machine import host
if sys.argv[1] == "keep":
    host.keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16_000_000)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(8)))  # the heap needs some rounds until its free blocks have grown together
"""

TRIMMED = """
import psutil, sys, torch
from slimgpt.machine import host
resident = lambda: psutil.Process().memory_info().rss / 2**20
tensors = [torch.ones(16_000) for _ in range(3000)]  # 64 kB each: from the heap, not mapped
last = tensors[-1]  # keeps the heap from shrinking by itself
del tensors
before = resident()
host.make_room(int(sys.argv[1]))
print(before - resident())
"""

PEAK = """
import torch
from slimgpt.machine import host
before = host.peak_host_bytes()
torch.ones(64 * 2**20)  # 256 MiB
print(before, host.peak_host_bytes())
"""

only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc has another allocator")


@only_glibc
def test_kept_memory_serves_the_next_tensor() -> None:
    faults = {}
    for wish in ("keep", "give back"):
        command = [sys.executable, "-c", PROGRAM, wish]
        faults[wish] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < 0.1 * faults["give back"]


@only_glibc
def test_freed_memory_goes_back_before_something_large() -> None:
    given = {}
    for size in (host.MAPPED_BYTES, host.MAPPED_BYTES + 1):
        command = [sys.executable, "-c", TRIMMED, str(size)]
        given[size] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    small, large = given.values()
    assert small < 1
    assert large > 150  # megabytes, of 183 that were freed


def test_a_peak_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    large = bytearray(b"x") * 2**30
    del large  # it has been there
    command = [sys.executable, "-c", PEAK]
    before, after = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert before < 2**30 * 3 // 4
    assert after - before > 200 * 2**20
