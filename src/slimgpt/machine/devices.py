"""Where and in which precision layers run, and what the run costs."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from slimgpt.errors import ConfigError

TOKENS_PER_BATCH = {"cpu": 4096, "mps": 4096, "cuda": 16384}
"""Tokens in one forward pass when the user leaves it to us: enough to keep the matrix products of a device busy."""


def pick_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ConfigError: not one of these, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # torchrun gives each process its own
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {name!r} is not one of auto, cpu, cuda, cuda:N, mps.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: this machine has no Apple GPU that torch can use. Use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here. Use --device cpu, or install "
            "a CUDA build of torch."
        )
    return device


def compute_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Dtype of the forward pass: the checkpoint's where the device computes in it, else float32.

    A GPU has them all. Of CPUs some multiply bfloat16 faster than float32; none float16.
    """
    native = device.type == "cuda" or (stored == torch.bfloat16 and device.type == "cpu" and _cpu_has_bfloat16())
    return stored if native else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """The device multiplies bfloat16, and faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_has_bfloat16()


def _cpu_has_bfloat16() -> bool:
    """As far as this torch can tell.

    With AMX products are faster than in float32. On an Intel CPU that has avx512_bf16 without it they took 1.6 to 1.9
    times as long as in float32 (benchmarks/results/precision.md).
    """
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    slow = "Intel" in known.get("cpu_name", "")
    return bool(known.get("amx_bf16") or (known.get("avx512_bf16") and not slow))


def pick_batch_size(asked: int, seqlen: int, device: torch.device) -> int:
    """Windows in one forward pass; does not look at free memory, so that the same command gives the same bytes."""
    return asked or max(1, TOKENS_PER_BATCH[device.type] // seqlen)


def device_name(device: torch.device) -> str:
    """What a record says of the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def peak_device_bytes(device: torch.device) -> int | None:
    """Largest allocation on a CUDA device so far; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
