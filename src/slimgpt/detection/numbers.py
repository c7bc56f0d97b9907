"""Numbers of a layer: in its configuration, in the sizes of its tensors, in the attributes of its modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from slimgpt.detection.hollow import is_projection
from slimgpt.sites import Site
from slimgpt.sites.projections import Rows as Dim
from slimgpt.sites.projections import output_dim, tensors_of_rows

Key = tuple[str, ...]
"""A number in a configuration: the names that lead to it, through configurations inside configurations."""

PLAIN = set(vars(nn.Module()))


def numbers_of(config: Any, inside: Key = ()) -> dict[Key, Any]:
    """All whole numbers of a configuration, and lists of them."""
    found: dict[Key, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            found.update(numbers_of(value, (*inside, name)))
        elif not name.startswith("_") and _is_number(value):
            found.update({(*inside, name): value})
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_number(one) for one in value)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def with_numbers(config: Any, numbers: Mapping[Key, Any]) -> Any:
    """A copy with some numbers changed."""
    changed = copy.deepcopy(config)
    for key, value in numbers.items():
        owner = changed
        for name in key[:-1]:
            owner = getattr(owner, name)
        setattr(owner, key[-1], value)
    return changed


def sizes_of(layer: nn.Module) -> dict[Dim, int]:
    """Every dimension of every parameter."""
    return {(name, dim): size for name, one in layer.named_parameters() for dim, size in enumerate(one.shape)}


def dims_of(layer: nn.Module, site: Site, by_members: bool = False) -> dict[Dim, int]:
    """By how much each dimension grows when a site has twice its units, or units twice their members."""
    consumer = layer.get_submodule(site.consumer)
    grown: dict[Dim, int] = {(f"{site.consumer}.weight", 1 - output_dim(consumer)): site.num_inputs}
    for segment in site.producers:
        if by_members and not segment.by_member:
            continue
        for dim in tensors_of_rows(layer, segment.path):
            grown[dim] = grown.get(dim, 0) + site.num_units * segment.rows_per_unit
    return grown


def attributes_of(layer: nn.Module, block: str) -> dict[tuple[str, str], Any]:
    """Numbers, and tuples and lists of them, that modules in a block hold beside their tensors.

    A projection's sizes are those of its tensor.
    """
    return {
        (path, name): value
        for path, module in layer.named_modules()
        if (path + ".").startswith(block + "." if block else "") and not is_projection(module)
        for name, value in vars(module).items()
        if name not in PLAIN and _is_attribute(value)
    }


def _is_attribute(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_attribute(one) for one in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)
