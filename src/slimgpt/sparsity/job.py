"""Turns options into a checked job: whatever can refuse a run refuses it here, before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimgpt import calibration
from slimgpt.arch.family import projections, weight_OI
from slimgpt.config import SparsifyConfig
from slimgpt.errors import ConfigError
from slimgpt.machine import devices
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.checks import check_context, check_rest
from slimgpt.output.place import Place, merged_bytes
from slimgpt.proof.memory import proved
from slimgpt.sparsity.masks import NEED_INPUTS
from slimgpt.sparsity.memory import CURE, masking
from slimgpt.streaming import memory
from slimgpt.streaming.other_way import note_other_way
from slimgpt.streaming.stages import passage_of


@dataclass(frozen=True)
class Job:
    """A run after all its checks.

    Attributes:
        config: the options.
        checkpoint: the dense model, opened.
        tokenizer: the model's.
        windows_BT: int64 calibration windows; None where nothing depends on the text.
        device: where layers run and masks are chosen.
        compute_dtype: dtype of the forward pass.
        stored_dtype: dtype of the written weights.
        batch_size: windows in one forward pass.
        place: the folder to make, and the one beside it to work in.
        needs: memory it will take.
    """

    config: SparsifyConfig
    checkpoint: Checkpoint
    tokenizer: Any
    windows_BT: Tensor | None
    device: torch.device
    compute_dtype: torch.dtype
    stored_dtype: torch.dtype
    batch_size: int
    place: Place
    needs: memory.Needs

    @property
    def num_bytes(self) -> int:
        """Size of the written weights: zeros take as much as other numbers."""
        return self.checkpoint.num_params * self.stored_dtype.itemsize


def prepare(config: SparsifyConfig, say: Callable[[str], None]) -> Job:
    """Check the options, open the model and read the calibration text where something depends on it.

    ``say(text)`` is told what people should know before work starts.

    Raises:
        SlimGPTError: the first thing that is wrong.
    """
    config.check()
    device = devices.pick_device(config.device)
    checkpoint = open_checkpoint(config.model)
    check_pattern(config, checkpoint)
    stored_dtype = checkpoint.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    place = Place(config.out)
    place.check(checkpoint.path, checkpoint.num_params * stored_dtype.itemsize, config.force)
    tokenizer = checkpoint.tokenizer()
    windows_BT = _windows(config, checkpoint, tokenizer, say) if reads_text(config) else None
    check_rest(checkpoint, windows_BT, stored_dtype)
    batch_size = devices.pick_batch_size(config.batch_size, config.seqlen, device)
    compute_dtype = devices.compute_dtype(checkpoint.dtype, device)
    if windows_BT is not None:
        note_other_way(checkpoint, tokenizer, windows_BT, config.bos, device, compute_dtype, say)
    passage = passage_of(checkpoint, windows_BT, config.seqlen, batch_size, device, compute_dtype, stored_dtype)
    num_bytes = checkpoint.num_params * stored_dtype.itemsize
    stages = [*masking(passage, config.method, windows_BT is not None), passage.writing(merged_bytes(num_bytes))]
    needs = memory.needs(proved(stages, num_bytes, stored_dtype, compute_dtype, device), device)
    memory.check(needs, device, CURE, place.partial)
    return Job(
        config=config,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        windows_BT=windows_BT,
        device=device,
        compute_dtype=compute_dtype,
        stored_dtype=stored_dtype,
        batch_size=batch_size,
        place=place,
        needs=needs,
    )


def check_pattern(config: SparsifyConfig, checkpoint: Checkpoint) -> None:
    """Refuse a pattern that does not fit the width of some projection.

    Raises:
        ConfigError: names the first such projection.
    """
    if config.kept_of_group is None:
        return
    _, group = config.kept_of_group
    for index, layer in enumerate(checkpoint.layers):
        for path, module in projections(layer).items():
            num_inputs = weight_OI(module).shape[1]
            if num_inputs % group:
                raise ConfigError(
                    f"--pattern {config.pattern}: {path} of layer {index} has {num_inputs} inputs, which is no "
                    f"multiple of {group}. Use --pattern unstructured, or prune with --round-to {group} first."
                )


def reads_text(config: SparsifyConfig) -> bool:
    """The masks, or how sparse the layers are, depend on the calibration text."""
    return config.method in NEED_INPUTS or config.layer_ratios == "owl"


def _windows(config: SparsifyConfig, checkpoint: Checkpoint, tokenizer: Any, say: Callable[[str], None]) -> Tensor:
    check_context(checkpoint.config, config.seqlen)
    return calibration.asked_windows(config, tokenizer, config.seed, say)
