"""ONNX for models whose layers are of one size: logits of whole sequences, without a cache of past tokens."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.arch.family import rope_types
from slimgpt.config import ExportConfig
from slimgpt.errors import ConfigError
from slimgpt.exports.layout import is_uniform
from slimgpt.exports.plan import Plan
from slimgpt.exports.tools import need
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.loading import load_model
from slimgpt.output.companions import copy_companions

FILE = "model.onnx"


def plan_onnx(checkpoint: Checkpoint, config: ExportConfig) -> Plan:
    """Check that layers are of one size, that nothing depends on the text's length, and that the exporter is there.

    Raises:
        ConfigError: a per-layer model, dynamic rotary scaling, or a missing extra.
    """
    if not is_uniform(checkpoint):
        raise ConfigError(
            "--format onnx takes models whose layers are of one size: prune with --layout uniform, or export with "
            "--format padded first. --format uniform-check says which formats this per-layer model fits."
        )
    if "dynamic" in rope_types(checkpoint.config):
        raise ConfigError(
            "--format onnx cannot hold rotary scaling 'dynamic', whose frequencies change with the length of the text. "
            "Other types of scaling can be exported."
        )
    need("onnxscript", "onnx")
    notes = (f"{FILE}: float32, input_ids and attention_mask in, logits out, no cache of past tokens.",)
    return Plan(4 * checkpoint.num_params, True, notes, partial(_write, checkpoint))


class _Logits(nn.Module):
    """The model as a plain function of two tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    model, tokenizer = load_model(checkpoint.source, "cpu")
    example = torch.ones(2, 8, dtype=torch.long)  # sizes that no dimension could be taken to be by chance
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with _quietly():
        torch.onnx.export(
            _Logits(model).eval(),
            (example, torch.ones_like(example)),
            folder / FILE,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=(dims, dims),
            dynamo=True,
            verbose=False,
        )
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    copy_companions(checkpoint.path, folder)


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter warns of things that nobody asked of it (torchvision, names of axes)."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
