"""Tensors by name, read one at a time: from the safetensors files of a folder, or from a model read whole.

Only safetensors are opened here, never pickles. What can be wrong with the files is found when they are opened.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from slimgpt.errors import ModelError, NumericalError, last_line, shown
from slimgpt.machine.json_files import read_object
from slimgpt.model.reading import border

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""safetensors' names of the numbers that can be computed with."""

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PART = 1 << 24  # entries looked at in one go: the look takes several times their memory


class Header(NamedTuple):
    """What a file says of a tensor before its data."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str


class Weights(Protocol):
    """Tensors by name, read one at a time."""

    def names(self) -> Iterator[str]:
        """All stored tensor names."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the data."""

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype, without reading the data: torch's, or safetensors' name of one that is no number to compute with."""

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
        self._headers: dict[str, Header] = {}
        for file, listed in _shards(folder).items():
            stored = _read_header(folder / file)
            missing = sorted(listed - set(stored))
            if missing:
                raise ModelError(
                    f"{folder / INDEX} says that {missing[0]!r} is in {file}, but it is not there "
                    f"({len(missing)} such names). Download the checkpoint again."
                )
            self._where.update({name: file for name in (listed or stored)})
            self._headers.update({name: stored[name] for name in (listed or stored)})

    def names(self) -> Iterator[str]:
        """All stored tensor names."""
        return iter(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the data."""
        return self._headers[name].shape

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype, without reading the data."""
        return self._headers[name].dtype

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

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of the tensor."""
        return self._state[name].dtype

    def get(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        return self._state[name]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a model's weights.

    Raises:
        ModelError: there are none, or not all.
    """
    return [folder / file for file in _shards(folder)]


def _shards(folder: Path) -> dict[str, set[str]]:
    """File name -> tensor names that the index promises in it (an empty set promises nothing).

    A whole file goes before an index, as in transformers: what is beside it then is left from another download.
    """
    if (folder / WHOLE).is_file():
        return {WHOLE: set()}
    if (folder / INDEX).is_file():
        return _listed(folder)
    pickles = sorted(file.name for file in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as pickles only ({pickles[0]}), which can run code when read. Convert it to "
            "safetensors first (huggingface.co/spaces/safetensors/convert)."
        )
    raise ModelError(f"{folder} has no {WHOLE} and no {INDEX}: the weights are missing.")


def _listed(folder: Path) -> dict[str, set[str]]:
    index, promised = folder / INDEX, defaultdict(set)
    try:
        for name, file in read_object(index)["weight_map"].items():
            if not isinstance(file, str) or Path(file).name != file:
                raise ValueError(f"{shown(file)} is not the name of a file beside it")
            promised[file].add(name)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is not a valid index ({last_line(error)}). Download it again.") from error
    absent = sorted(file for file in promised if not os.path.isfile(folder / file))
    if absent:
        raise ModelError(
            f"{folder}: {len(absent)} of {len(promised)} shards listed in {INDEX} are missing, first "
            f"{shown(absent[0])}. Download the checkpoint again."
        )
    return promised


def _read_header(file: Path) -> dict[str, Header]:
    """What a file says of its tensors; a header that does not fit the file's length is an error."""
    with border(f"{file} is truncated or damaged", "Download it again."), safe_open(file, framework="pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        return {
            name: Header(tuple(part.get_shape()), DTYPES.get(part.get_dtype(), part.get_dtype()))
            for name, part in slices.items()
        }


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
