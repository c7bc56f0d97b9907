"""Which layers of a model are alike, and which share their weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from slimgpt.detection.numbers import PLAIN


def owned_by_one(layers: nn.ModuleList) -> set[int]:
    """Ids of the parameters that are in one layer only."""
    count = Counter(number for layer in layers for number in {id(parameter) for parameter in layer.parameters()})
    return {number for number, times in count.items() if times == 1}


def signatures(layers: nn.ModuleList) -> list[Any]:
    """What a layer is, but for its number and its weights: layers of one signature are looked at once."""
    seen = [_attributes(layer) for layer in layers]
    names = {name for attributes in seen for name in attributes}
    numbers = {name for name in names if all(one.get(name, index) == index for index, one in enumerate(seen))}
    return [
        (
            tuple((path, type(module)) for path, module in layer.named_modules()),
            tuple((name, parameter.shape) for name, parameter in layer.named_parameters()),
            tuple(sorted((name, repr(value)) for name, value in attributes.items() if name not in numbers)),
        )
        for layer, attributes in zip(layers, seen, strict=True)
    ]


def _attributes(layer: nn.Module) -> dict[tuple[str, str], Any]:
    return {
        (path, name): value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if name not in PLAIN and isinstance(value, (bool, int, float, str, tuple, list))
    }
