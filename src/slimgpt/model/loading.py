"""Loads a whole model, dense or pruned, ready to run: for evaluation and for talking to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from slimgpt.machine import devices
from slimgpt.model.checkpoint import open_checkpoint
from slimgpt.model.config_file import read_config
from slimgpt.model.families import auto_class
from slimgpt.model.gguf_file import load_gguf


def load_model(model: str, device: str = "auto") -> tuple[Any, Any]:
    """A causal LM in evaluation mode and its tokenizer, from a folder (dense or pruned), hub id or GGUF file.

    On a CPU the model runs in float32, on a GPU in the checkpoint's dtype.

    Raises:
        ModelError: the model cannot be read.
        ConfigError: the device is not there.
    """
    where = devices.pick_device(device)
    checkpoint = open_checkpoint(model)
    loaded = load_as(checkpoint.path, devices.compute_dtype(checkpoint.dtype, where))
    return loaded.to(where).eval(), checkpoint.tokenizer()


def load_as(path: Path, dtype: torch.dtype, **placement: Any) -> Any:
    """The causal LM of a local folder or GGUF file that :mod:`slimgpt.model.checkpoint` has checked, on the CPU, or
    where transformers' ``device_map`` puts it.
    """
    if path.is_file():
        return load_gguf(path, dtype)
    config = read_config(path)
    return auto_class(config).from_pretrained(
        path,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **placement,
    )
