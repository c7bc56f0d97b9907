"""What a run knows of the model that it has made: logits that it has computed itself, from its own tensors.

Shapes: B windows · T tokens a window · K positions that are compared · D residual width · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimgpt.machine.processes import Processes
from slimgpt.machine.setup import Machine
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.embeddings_and_head import head
from slimgpt.model.layer_loading import materialised
from slimgpt.proof.agreement import coarsest
from slimgpt.proof.opening import TEXT, quiet_transformers
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.stream import ActivationStream

NUM_COMPARED = 32  # positions: the last of the window, where rotations and sliding windows have gone furthest
SHORT = 512  # tokens of a window that is run for this alone


@dataclass(frozen=True)
class Witness:
    """Logits of one window.

    Attributes:
        ids_T: int64 tokens of the window.
        logits_KV: float32, at the last K tokens.
        device: where the model ran.
        dtype: in which it ran.
        stored_dtype: in which its weights are stored.
        precision: the coarsest dtype that anything was rounded to on the way.
        source: the folder or file of the model that it was made from.
    """

    ids_T: Tensor
    logits_KV: Tensor
    device: torch.device
    dtype: torch.dtype
    stored_dtype: torch.dtype
    precision: torch.dtype
    source: Path


def short_window(checkpoint: Checkpoint, tokenizer: Any, windows_BT: Tensor | None = None) -> Tensor:
    """Tokens for a run through the layers that is made for this alone: of the calibration text, or of ours."""
    ids_T = torch.tensor(tokenizer(TEXT)["input_ids"]) if windows_BT is None else windows_BT[0]
    skeleton: Any = checkpoint.skeleton
    known_T = ids_T[ids_T < skeleton.get_input_embeddings().weight.shape[0]]
    text = checkpoint.config.get_text_config(decoder=True)
    return known_T[: min(SHORT, getattr(text, "max_position_embeddings", SHORT))]


@torch.inference_mode()
def witness_of(
    checkpoint: Checkpoint,
    stream: ActivationStream,
    ids_T: Tensor,
    machine: Machine,
    room_dtype: torch.dtype,
    cut: Mapping[str, Tensor] | None = None,
) -> Witness:
    """What a stream has come to that has gone through all layers; ``ids_T`` is its first window, and it has kept
    activations in ``room_dtype``. ``cut`` are weights behind the layers that are not the checkpoint's any more.
    """
    hidden_1KD = stream.residual(slice(0, 1))[:, -NUM_COMPARED:]
    dtype, stored_dtype = machine.compute_dtype, machine.stored_dtype
    with head(checkpoint, machine.device, dtype, cut) as logits, quiet_transformers():
        logits_KV = logits(hidden_1KD)[0].float().cpu()
    rounded = dtype if stored_dtype == checkpoint.dtype else stored_dtype  # what is outside the layers, when written
    precision = coarsest(dtype, room_dtype, rounded)
    return Witness(ids_T, logits_KV, machine.device, dtype, stored_dtype, precision, checkpoint.path)


def run_through(
    checkpoint: Checkpoint, ids_T: Tensor, layers: Iterable[tuple[int, dict[str, Tensor]]], machine: Machine
) -> Witness:
    """Run a window through layers of a checkpoint, one in memory at a time: which they are, and their weights."""
    device, dtype = machine.device, machine.compute_dtype
    room = ActivationRoom(dtype)
    with closing(ActivationStream(checkpoint, ids_T[None], device, dtype, 1, room)) as stream:
        for index, state in layers:
            with materialised(checkpoint.layers[index], state, device, dtype) as layer:
                stream.advance(layer, index)
        return witness_of(checkpoint, stream, ids_T, machine, dtype)


def alone(device: torch.device, compute_dtype: torch.dtype, stored_dtype: torch.dtype) -> Machine:
    """What one window runs on."""
    return Machine(device, compute_dtype, stored_dtype, 1, None, Processes())
