"""GGUF files, which transformers reads whole: it dequantises them as they load."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from slimgpt.arch import FAMILIES
from slimgpt.errors import ModelError, last_line
from slimgpt.model.config_file import refuse_adapter
from slimgpt.model.reading import border
from slimgpt.model.weights import LoadedWeights, Weights

DAMAGED = "Download it again if it is damaged."
LAYERS = b".block_count"
INTEGERS = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
"""By GGUF's number of a type: how its values lie in the file."""


def open_gguf(path: Path) -> tuple[Any, Weights]:
    """A plain configuration, and the weights, in float32.

    Raises:
        ModelError: the file cannot be read, lacks tensors, or is of an unsupported family.
    """
    refuse_adapter(path.parent)
    _check_layers(path)
    cure = f"{DAMAGED} Supported families: {', '.join(sorted(FAMILIES))}."
    with border(f"{path} cannot be read as GGUF", cure):
        model, told = _load(path, torch.float32, output_loading_info=True)
        settings = model.config.to_dict()
        settings.pop("quantization_config", None)
        config = type(model.config).from_dict(settings)
    if told["missing_keys"]:
        raise ModelError(f"{path} lacks the weights of {min(told['missing_keys'])!r}. {DAMAGED}")
    config.architectures = [type(model).__name__]
    return config, LoadedWeights(model.state_dict())


def load_gguf(path: Path, dtype: torch.dtype) -> Any:
    """The causal LM of a GGUF file that :func:`open_gguf` has read once."""
    return _load(path, dtype)


def _load(path: Path, dtype: torch.dtype, **more: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=dtype, trust_remote_code=False, local_files_only=True, **more
    )


def _check_layers(path: Path) -> None:
    """transformers makes as many layers as a file says, before it looks for their tensors.

    Raises:
        ModelError: there are more layers than tensors, or the file ends before it has said so.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            (tensors,) = struct.unpack_from("<Q", data, 8)
            most = max(_layers(data), default=0)
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(f"{path} cannot be read as GGUF ({last_line(error)}). {DAMAGED}") from error
    if most > tensors:
        raise ModelError(f"{path} says that it has {most:,} layers, but it has {tensors:,} tensors. {DAMAGED}")


def _layers(data: mmap.mmap) -> Iterator[int]:
    """The value of every place that looks like the number of layers, whatever stands around it."""
    place = data.find(LAYERS)
    while place >= 0:
        place += len(LAYERS)
        kind = INTEGERS.get(int.from_bytes(data[place : place + 4], "little"))
        if kind is not None:
            yield struct.unpack_from(kind, data, place + 4)[0]
        place = data.find(LAYERS, place)
