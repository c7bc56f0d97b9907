"""Loads a whole model, dense or pruned, ready to run: for evaluation and for talking to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from slimgpt.machine import devices
from slimgpt.model.checkpoint import load_tokenizer, open_checkpoint


def load_model(model: str, device: str = "auto") -> tuple[Any, Any]:
    """A causal LM in evaluation mode and its tokenizer, from a folder (dense or pruned), hub id or GGUF file.

    On a CPU the model runs in float32, on a GPU in the checkpoint's dtype.

    Raises:
        ModelError: the model cannot be read.
        ConfigError: the device is not there.
    """
    where = devices.pick_device(device)
    checkpoint = open_checkpoint(model)
    dtype = devices.compute_dtype(checkpoint.dtype, where)
    loaded = load_as(checkpoint.path, dtype)
    return loaded.to(where).eval(), load_tokenizer(checkpoint.path)


def load_as(path: Path, dtype: torch.dtype) -> Any:
    """The causal LM of a local folder or GGUF file that :mod:`slimgpt.model.checkpoint` has checked, on the CPU."""
    if path.is_file():
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
