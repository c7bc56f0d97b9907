"""Weights under the names that a model's modules have, where its files use others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from slimgpt.model.weights import Weights


def in_files(name: str, spellings: Mapping[str, str]) -> str:
    """What checkpoints call a tensor of the modules: tools that know the family look for that."""
    for stored, module in spellings.items():
        name = name.replace(module, stored)
    return name


class Renamed:
    """Lazy view of stored tensors under the names of modules.

    Checkpoints that were saved from the body alone lack its name in theirs, and some families have renamed modules
    since their checkpoints were made.

    Args:
        weights: the tensors as they are stored.
        wanted: the modules' names.
        prefix: the body's name in the causal LM.
        spellings: part of a stored name -> what it is in a module's.
    """

    def __init__(self, weights: Weights, wanted: Collection[str], prefix: str, spellings: Mapping[str, str]) -> None:
        self._weights = weights
        self._stored: dict[str, str] = {}
        for stored in weights.names():
            name = stored
            for old, new in spellings.items():
                name = name.replace(old, new)
            whole = f"{prefix}.{name}"
            self._stored[whole if name not in wanted and whole in wanted else name] = stored

    def names(self) -> Iterator[str]:
        """All names that have a tensor."""
        return iter(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the data."""
        return self._weights.shape(self._stored[name])

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype, without reading the data."""
        return self._weights.dtype(self._stored[name])

    def get(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        return self._weights.get(self._stored[name])
