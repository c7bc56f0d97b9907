"""The tensors that have a row for every token, and the configuration that says how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimgpt.errors import ModelError
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.vocabulary.renumber import New, renumbered

SIZE = "vocab_size"


def tables(checkpoint: Checkpoint) -> list[str]:
    """Names of the embedding, and of head and head's bias where they are tensors of their own.

    Raises:
        ModelError: tokens are named elsewhere too: another tensor has as many rows, or the model reads more than text.
    """
    skeleton: Any = checkpoint.skeleton
    if checkpoint.config.get_text_config(decoder=True) is not checkpoint.config:
        raise ModelError(
            f"{checkpoint.source}: {checkpoint.config.model_type} reads more than text, and its tokens for that have "
            "ids of their own: its vocabulary cannot be trimmed."
        )
    head = skeleton.get_output_embeddings()
    known = {id(parameter) for parameter in (skeleton.get_input_embeddings().weight, head.weight, head.bias)}
    parameters = dict(skeleton.named_parameters())
    for name in checkpoint.other_names():
        if len(parameters[name]) == checkpoint.vocabulary and id(parameters[name]) not in known:
            raise ModelError(f"{checkpoint.source}: {name} has a row for every token too, which no one has described.")
    return [name for name in checkpoint.other_names() if id(parameters[name]) in known]


def row_params(checkpoint: Checkpoint, names: Sequence[str]) -> int:
    """Parameters that go with one token."""
    parameters = dict(checkpoint.skeleton.named_parameters())
    return sum(parameters[name][0].numel() for name in names)


def cut_tables(checkpoint: Checkpoint, names: Sequence[str], kept: Sequence[int]) -> dict[str, Tensor]:
    """Their rows that stay."""
    kept_N = torch.tensor(kept)
    return {name: checkpoint.weights.get(name)[kept_N].to(checkpoint.dtype) for name in names}


def smaller_config(checkpoint: Checkpoint, num_rows: int, new: New) -> Any:
    """The configuration of the model with so many tokens."""
    config = checkpoint.config
    settings = renumbered(config.to_dict(), new)
    settings[config.attribute_map.get(SIZE, SIZE)] = num_rows
    settings["dtype"] = str(checkpoint.dtype).removeprefix("torch.")
    return type(config).from_dict(settings)
