"""What the model with fewer tokens has to say: what the dense one says of the same tokens.

Shapes: T tokens · K positions · V vocabulary of before · N tokens that stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slimgpt.machine import devices
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.layer_loading import read_layer
from slimgpt.proof import Witness, alone, run_through, short_window

CPU = torch.device("cpu")


def dense_witness(checkpoint: Checkpoint, trimmed: Any, kept_N: Tensor) -> Witness:
    """Run the dense model on what the trimmed tokenizer makes of a text; logits of the tokens that stay, ids of now."""
    ids_T = short_window(checkpoint, trimmed)
    layers = ((index, read_layer(checkpoint, index, checkpoint.dtype)) for index in range(len(checkpoint.layers)))
    machine = alone(CPU, devices.compute_dtype(checkpoint.dtype, CPU), checkpoint.dtype)
    dense = run_through(checkpoint, kept_N[ids_T], layers, machine)
    return replace(dense, ids_T=ids_T, logits_KV=dense.logits_KV[:, kept_N])
