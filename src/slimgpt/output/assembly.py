"""Puts the folder that users get together: weights, configuration, modelling file, generation settings, tokenizer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from slimgpt.machine.atomic import write_json
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.model import generation_settings
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.families import PREFIX, modelling_file
from slimgpt.model.naming import in_files
from slimgpt.model.weights import INDEX
from slimgpt.output import place
from slimgpt.output.companions import copy_companions


def assemble(
    folder: Path,
    checkpoint: Checkpoint,
    shards: Sequence[Path],
    num_bytes: int,
    dtype: torch.dtype,
    config: Any,
    tokenizer: Any,
    cut: Mapping[str, Tensor] | None = None,
) -> None:
    """Put weights, configuration, modelling file and tokenizer together in ``folder``.

    ``shards`` hold the decoder layers, and ``cut`` what was pruned outside them; the rest is the dense model's, in
    ``dtype``.
    """
    folder.mkdir()
    names = [*checkpoint.other_names(), *checkpoint.buffers_beside()]
    rest = {name: _in(dtype, checkpoint.weights.get(name)).contiguous() for name in names}
    write_weights(folder, {**rest, **(cut or {})}, shards, num_bytes, checkpoint.family.spellings)
    add_the_rest(folder, checkpoint, config, tokenizer)


def _in(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    """In ``dtype``, unless it counts or says yes and no."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def add_the_rest(folder: Path, checkpoint: Checkpoint, config: Any, tokenizer: Any) -> None:
    """What a checkpoint has beside its weights: configuration, modelling file, generation settings, tokenizer, licence
    and whatever else travels with the model.
    """
    config.save_pretrained(folder)
    if is_per_layer(config):
        add_modelling_file(folder, config)
    generation_settings.write_settings(checkpoint.path, checkpoint.config, folder)
    tokenizer.save_pretrained(folder)
    copy_companions(checkpoint.path, folder)


def is_per_layer(config: Any) -> bool:
    """Layers have their own sizes, so that our modelling file goes with the weights."""
    return str(config.model_type).startswith(PREFIX)


def write_weights(
    folder: Path,
    rest: Mapping[str, Tensor],
    shards: Sequence[Path],
    total_bytes: int,
    spellings: Mapping[str, str],
) -> None:
    """One file where it is small, else the layers' shards, and one more for what is no layer; tensors go by the names
    that the family's checkpoints have for them.
    """
    if total_bytes <= place.ONE_FILE_BYTES:
        layers = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
        write_tensors(folder / "model.safetensors", _renamed({**rest, **layers}, spellings))
        return
    total = len(shards) + 1
    names = [f"model-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1)]
    write_tensors(folder / names[-1], _renamed(rest, spellings))
    for shard, name in zip(shards, names, strict=False):
        if all(in_files(tensor, spellings) == tensor for tensor in _tensor_names(shard)):
            _link(shard, folder / name)
        else:
            write_tensors(folder / name, _renamed(load_file(shard), spellings))
    weight_map = {tensor: name for name in names for tensor in _tensor_names(folder / name)}
    write_json(folder / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def _renamed(tensors: Mapping[str, Tensor], spellings: Mapping[str, str]) -> dict[str, Tensor]:
    return {in_files(name, spellings): tensor for name, tensor in tensors.items()}


def _link(shard: Path, target: Path) -> None:
    """A second name for a shard: the journal stays whole until the output has its name."""
    try:
        os.link(shard, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(shard, target)


def _tensor_names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def add_modelling_file(folder: Path, config: Any) -> None:
    """What plain transformers needs to load layers of different sizes."""
    file = modelling_file(config)
    shutil.copyfile(file, folder / file.name)
