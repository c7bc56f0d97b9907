"""Weights under the names and in the shapes that transformers gives them when it loads a model of a type.

Types say there how tensors in files become parameters: by other names, or several in one (experts, say). Here that is
done a tensor at a time, with transformers' own rules.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from slimgpt.model.weights import Weights


@dataclass
class _Recipe:
    """How one or several parameters are made: by which rule (None: as it is stored), from which tensors."""

    target: str
    rule: Any
    sources: list[tuple[str, str]] = field(default_factory=list)


class Source(NamedTuple):
    """Stored tensors that parameters are made from by one pattern of a rule: one, or one an expert, in their order.

    Attributes:
        stored: their names in the files.
        makes: the parameters.
        alone: the parameter is the stored tensor as it is.
    """

    stored: tuple[str, ...]
    makes: tuple[str, ...]
    alone: bool


class Converted:
    """Lazy view of stored tensors as a model's parameters.

    Args:
        weights: the tensors as they are stored.
        model: with parameters on the meta device.

    Attributes:
        stored: the same tensors as they are stored.
    """

    def __init__(self, weights: Weights, model: Any) -> None:
        self.stored = weights
        self._model = model
        self._made: dict[str, tuple[_Recipe, Tensor]] = {}
        self._recipes = _recipes(weights, model)
        for recipe in self._recipes:
            for name, like in self._carried_out(recipe, self._like).items():
                self._made[name] = (recipe, like)

    def _like(self, stored: str) -> Tensor:
        """A tensor of that shape without data."""
        dtype = self.stored.dtype(stored)
        known = dtype if isinstance(dtype, torch.dtype) else torch.uint8
        return torch.empty(self.stored.shape(stored), dtype=known, device="meta")

    def _carried_out(self, recipe: _Recipe, read: Any) -> dict[str, Tensor]:
        if recipe.rule is None:
            return {recipe.target: read(recipe.sources[0][1])}
        rule = copy.deepcopy(recipe.rule)
        for pattern, stored in recipe.sources:
            rule.add_tensor(recipe.target, stored, pattern, read(stored))
        made = rule.convert(recipe.target, model=self._model, config=self._model.config)
        return {name: one[0] if isinstance(one, list) else one for name, one in made.items()}

    def names(self) -> Iterator[str]:
        """All names that have a tensor."""
        return iter(self._made)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the data."""
        return tuple(self._made[name][1].shape)

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype, without reading the data: of what it is made from."""
        return self.stored.dtype(self._made[name][0].sources[0][1])

    def get(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        return self._carried_out(self._made[name][0], self.stored.get)[name]

    def sources(self) -> list[Source]:
        """What is in the files, each tensor once, and what becomes of it."""
        makes: dict[int, list[str]] = {}
        for name, (recipe, _) in self._made.items():
            makes.setdefault(id(recipe), []).append(name)
        found = []
        for recipe in self._recipes:
            by_pattern: dict[str, list[str]] = {}
            for pattern, stored in recipe.sources:
                by_pattern.setdefault(pattern, []).append(stored)
            found += [Source(tuple(s), tuple(makes[id(recipe)]), recipe.rule is None) for s in by_pattern.values()]
        return found


def _recipes(weights: Weights, model: Any) -> list[_Recipe]:
    """As transformers goes about it: every rule that renames, and at most one that converts."""
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    wanted, prefix = model.state_dict(), model.base_model_prefix
    recipes: dict[str, _Recipe] = {}
    for stored in sorted(weights.names(), key=dot_natural_key):
        name, pattern = rename_source_key(stored, renamings, converters, prefix, wanted)
        if name not in wanted and stored in wanted:
            name, pattern = rename_source_key(stored, [], [], prefix, wanted)
        rule = None if pattern is None or name not in wanted else by_pattern[pattern]
        recipes.setdefault(name, _Recipe(name, rule)).sources.append((pattern or stored, stored))
    return list(recipes.values())
