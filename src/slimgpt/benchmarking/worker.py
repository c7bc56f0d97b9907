"""What runs in the process of one model: it loads the model, and measures it whenever it is told to."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch

from slimgpt.machine import devices, host
from slimgpt.machine.timing import Load, Measured, Repeat
from slimgpt.model.loading import load_model
from slimgpt.model.quantisation import Scheme, quantise_

STATUS = Path("/proc/self/status")  # Linux

_measured: Measured  # the model of this process


def start(num_threads: int) -> None:
    """Set the process up; Ctrl-C ends it without a word, its parent has the say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(num_threads)


def load(model: str, device: str, work: Load, quantise: Scheme | None) -> dict[str, Any]:
    """Load the model of this process, with weights of fewer bits where asked, and say what it is."""
    global _measured
    idle_bytes = _peak_bytes(torch.device("cpu"))
    _measured = Measured(load_model(model, device)[0], work)
    num_parameters = _measured.model.num_parameters()
    quantised = quantise_(_measured.model, quantise) if quantise is not None else None
    return {
        "parameters": num_parameters,
        "quantisation": quantised.record() if quantised else None,
        "dtype": str(_measured.model.dtype).removeprefix("torch."),
        "idle_bytes": None if _measured.device.type == "cuda" else idle_bytes,
    }


def repeat() -> Repeat:
    """Measure once."""
    return _measured.repeat()


def peak_bytes() -> int:
    """Most memory so far: of this process, or of what it allocated on a CUDA device."""
    return _peak_bytes(_measured.device)


def flops_per_token() -> int:
    """Floating-point operations of one generated token right after the prompt; the last to be asked for."""
    return _measured.flops_per_token()


def _peak_bytes(device: torch.device) -> int:
    """Linux's own mark of this process, because ``getrusage`` gives a child the size of the parent it came from."""
    on_device = devices.peak_device_bytes(device)
    if on_device is not None:
        return on_device
    if STATUS.is_file():
        marks = [line.split() for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")]
        return int(marks[0][1]) * 1024
    return host.peak_host_bytes()
