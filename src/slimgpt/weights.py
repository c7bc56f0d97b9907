"""Tensors by name, read one at a time: from the safetensors files of a folder, or from a model read whole.

Only safetensors are opened here, never pickles. What can be wrong with the files is found when they are opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from slimgpt.errors import ModelError

INDEX = "model.safetensors.index.json"


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

    Raises:
        ModelError: no safetensors, a shard that is missing or truncated, or an index that names absent tensors.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        for file, listed in _shards(folder).items():
            self._files[file] = _open_safetensors(folder / file)
            present = set(self._files[file].keys())
            missing = sorted(listed - present)
            if missing:
                raise ModelError(
                    f"{folder / INDEX} says that {missing[0]!r} is in {file}, but it is not there "
                    f"({len(missing)} such names). Download the checkpoint again."
                )
            self._where.update({name: file for name in (listed or present)})

    def names(self) -> Iterator[str]:
        """All stored tensor names."""
        return iter(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the data."""
        return tuple(self._files[self._where[name]].get_slice(name).get_shape())

    def get(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        return self._files[self._where[name]].get_tensor(name)


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
                promised.setdefault(file, set()).add(name)
        except (ValueError, KeyError, AttributeError) as error:
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


def _open_safetensors(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is truncated or damaged ({error}). Download it again.") from error
