"""``--calibration self``: the whole model is loaded once, writes its windows, and is gone before pruning starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from slimgpt.arch.family import head_dim
from slimgpt.calibration import cached, generated_windows
from slimgpt.calibration.mixture import SELF
from slimgpt.errors import ConfigError
from slimgpt.machine import devices, host
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.loading import load_as

CACHE_BYTES = 1 << 30
"""Keys and values of the windows that are written at a time; fixed, so that the same command gives the same windows."""


def self_windows(
    checkpoint: Checkpoint,
    tokenizer: Any,
    device: torch.device,
    num_windows: int,
    seqlen: int,
    seed: int,
    note: Callable[[str], None],
    before: Sequence[int] = (),
) -> Tensor:
    """Windows that the model writes on ``device``, int64, ``num_windows`` x ``seqlen``; from the cache if there.

    ``before`` stands in front of every window.

    Raises:
        ConfigError: the model does not fit into memory as a whole.
        CalibrationError: it is damaged, and writes nothing.
    """
    dtype = devices.compute_dtype(checkpoint.dtype, device)

    def make() -> Tensor:
        _check_memory(checkpoint, dtype, device)
        note(f"The model writes {num_windows} windows of {seqlen} tokens of calibration text; this is kept.")
        model = load_as(checkpoint.path, dtype).to(device).eval()
        batch_size = _batch_size(checkpoint, dtype, seqlen)
        starts = _first_tokens(checkpoint, tokenizer)
        return generated_windows(model, starts, num_windows, seqlen, batch_size, seed, before)

    device_name = devices.device_name(device)
    key = (SELF, checkpoint.fingerprint(), str(dtype), device_name, num_windows, seqlen, seed, *before)
    return cached(key, make)


def _first_tokens(checkpoint: Checkpoint, tokenizer: Any) -> list[int]:
    """All tokens that stand for text, and have an embedding."""
    skeleton: Any = checkpoint.skeleton
    vocabulary = skeleton.get_input_embeddings().weight.shape[0]
    ids = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    return sorted(token for token in ids if token < vocabulary)


def _batch_size(checkpoint: Checkpoint, dtype: torch.dtype, seqlen: int) -> int:
    """Windows whose keys and values fit into ``CACHE_BYTES``."""
    configs = [checkpoint.layer_config(index) for index in range(len(checkpoint.layers))]
    width = sum(_kv_heads(config) * head_dim(config) for config in configs)
    return max(1, CACHE_BYTES // (2 * width * seqlen * dtype.itemsize))


def _kv_heads(config: Any) -> int:
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _check_memory(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
    needed = checkpoint.num_params * dtype.itemsize + CACHE_BYTES
    free = host.free_bytes()
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    if needed > free:
        raise ConfigError(
            f"--calibration self loads the model as a whole, about {needed / 2**30:,.1f} GiB with what it remembers, "
            f"and {free / 2**30:,.1f} GiB are free: give text of your own, or 'c4' or 'builtin', which stream it."
        )
