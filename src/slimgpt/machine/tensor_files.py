"""Safetensors files that appear under their names only when they are whole and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from slimgpt.machine.atomic import scratch

METADATA = {"format": "pt"}  # what transformers asks of a safetensors file


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file so that it is there whole or not at all."""
    with scratch(path) as unfinished:
        save_file(dict(tensors), unfinished, metadata=METADATA)
        unfinished.chmod(0o644)  # safetensors makes it readable by its owner alone
