"""Tensors by name, read one at a time: from the safetensors files of a folder, or from a model read whole.

Only safetensors are opened here, never pickles. What can be wrong with the files is found when they are opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slimgpt.errors import ModelError, NumericalError

INDEX = "model.safetensors.index.json"
PART = 1 << 24  # entries looked at in one go: the look takes several times their memory


class Weights(Protocol):
    """Tensors by name, read one at a time."""

    def names(self) -> Iterator[str]:
        """All stored tensor names."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the data."""

    def get(self, name: str) -> Tensor:
        """The tensor, on the CPU."""


class SafetensorsWeights:
    """Lazy view of the safetensors files of a folder.

    A file is mapped only while a tensor is read from it: pages of a mapping that stays open stay resident, and a model
    read layer by layer would end up in memory whole.

    Raises:
        ModelError: no safetensors, a shard that is missing or truncated, or an index that names absent tensors.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._where: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file, listed in _shards(folder).items():
            shapes = _read_header(folder / file)
            missing = sorted(listed - set(shapes))
            if missing:
                raise ModelError(
                    f"{folder / INDEX} says that {missing[0]!r} is in {file}, but it is not there "
                    f"({len(missing)} such names). Download the checkpoint again."
                )
            self._where.update({name: file for name in (listed or shapes)})
            self._shapes.update({name: shapes[name] for name in (listed or shapes)})

    def names(self) -> Iterator[str]:
        """All stored tensor names."""
        return iter(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the data."""
        return self._shapes[name]

    def get(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        with safe_open(self._folder / self._where[name], framework="pt") as file:
            return file.get_tensor(name)


class LoadedWeights:
    """The state dict of a model that had to be read whole (GGUF files are dequantised as they load)."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = dict(state)

    def names(self) -> Iterator[str]:
        """All stored tensor names."""
        return iter(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self._state[name].shape)

    def get(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        return self._state[name]


def _shards(folder: Path) -> dict[str, set[str]]:
    """File name -> tensor names that the index promises in it (an empty set promises nothing)."""
    index = folder / INDEX
    if index.is_file():
        promised: dict[str, set[str]] = {}
        try:
            for name, file in json.loads(index.read_text())["weight_map"].items():
                if Path(file).name != file:
                    raise ValueError(f"{file!r} is not the name of a file beside it")
                promised.setdefault(file, set()).add(name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is not a valid index ({error!r}). Download it again.") from error
        absent = sorted(file for file in promised if not (folder / file).is_file())
        if absent:
            raise ModelError(
                f"{folder}: {len(absent)} of {len(promised)} shards listed in {INDEX} are missing, first {absent[0]}. "
                "Download the checkpoint again."
            )
        return promised
    if (folder / "model.safetensors").is_file():
        return {"model.safetensors": set()}
    pickles = sorted(file.name for file in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as pickles only ({pickles[0]}), which can run code when read. Convert it to "
            "safetensors first (huggingface.co/spaces/safetensors/convert)."
        )
    raise ModelError(f"{folder} has no model.safetensors and no {INDEX}: the weights are missing.")


def _read_header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file; a header that does not fit the file's length is an error."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is truncated or damaged ({error}). Download it again.") from error


def require_finite(where: str, stored: Tensor, dtype: torch.dtype) -> None:
    """Refuse a weight that is not finite as it is stored, or not any more in ``dtype``.

    Raises:
        NumericalError: says which of the two, ``where``, and the cure.
    """
    if not _all_finite(stored, stored.dtype):
        raise NumericalError(f"{where} has NaN or infinite entries. The checkpoint is damaged: download it again.")
    if not _all_finite(stored, dtype):
        raise NumericalError(
            f"{where} does not fit into {str(dtype).removeprefix('torch.')}: its largest entry is "
            f"{stored.abs().max().item():.3g}. Use --dtype bfloat16 or float32."
        )


def _all_finite(stored: Tensor, dtype: torch.dtype) -> bool:
    return all(bool(part.to(dtype).isfinite().all()) for part in stored.flatten().split(PART))
