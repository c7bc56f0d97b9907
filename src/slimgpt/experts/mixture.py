"""Where a model has its routed experts, found in its class: nothing is looked up by name.

A class built twice, with other numbers of experts, shows which number of the configuration says how many there are, and
which tensors have a row for each: fused projections, their biases, the router's rows, correction biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from slimgpt.detection.hollow import is_fused_experts
from slimgpt.detection.numbers import Key, numbers_of, with_numbers
from slimgpt.errors import ModelError, shown
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.skeleton import shapes_alone

GROUPS, GROUPS_CHOSEN = "n_group", "topk_group"
"""What configurations call groups of experts that a router chooses from, and how many of them a token may use."""

IN_A_GROUP = 2  # experts whose scores a router adds up to the group's


@dataclass(frozen=True)
class Mixture:
    """The routed experts of a model.

    Attributes:
        key: the number of the configuration that says how many a layer has.
        num_experts: E, of every layer that has any.
        dims: tensor of the causal LM -> the dimension along which experts lie.
        paths: layer -> module path in it of all its experts.
        groups: that the router chooses from first; 1 where it does not.
        groups_chosen: how many of them serve a token.
    """

    key: Key
    num_experts: int
    dims: Mapping[str, int]
    paths: Mapping[int, str]
    groups: int
    groups_chosen: int

    def least(self, per_token: int) -> int:
        """The fewest experts of a layer with which its router still finds ``per_token`` for every token."""
        if self.groups == 1:
            return per_token
        return self.groups * max(IN_A_GROUP, -(-per_token // self.groups_chosen))

    def cut(self, prefix: str, state: Mapping[str, Tensor], kept_N: Tensor) -> dict[str, Tensor]:
        """The tensors of a layer, whose names in the model begin with ``prefix``, with the experts that stay alone."""

        def left(name: str, tensor: Tensor) -> Tensor:
            dim = self.dims.get(prefix + name)
            return tensor if dim is None else tensor.index_select(dim, kept_N)

        return {name: left(name, tensor) for name, tensor in state.items()}

    def dims_inside(self, prefix: str) -> dict[str, int]:
        """Of one layer, whose names in the model begin with ``prefix``."""
        return {name.removeprefix(prefix): dim for name, dim in self.dims.items() if name.startswith(prefix)}


def find_mixture(checkpoint: Checkpoint) -> Mixture:
    """The routed experts of an opened model.

    Raises:
        ModelError: it has none, or they cannot be told apart.
    """
    paths = {index: path for index, layer in enumerate(checkpoint.layers) if (path := _experts_of(checkpoint, layer))}
    if not paths:
        raise _refused(checkpoint, "it has no layers of routed experts in the form that transformers has for them")
    counts = {count_of(checkpoint.layers[index].get_submodule(path)) for index, path in paths.items()}
    if len(counts) > 1:
        raise _refused(checkpoint, f"its layers have different numbers of experts ({sorted(counts)})")
    text = checkpoint.config.get_text_config(decoder=True)
    groups = getattr(text, GROUPS, None) or 1
    key, dims = _growth(checkpoint, counts.pop(), groups, paths)
    return Mixture(
        key=key,
        num_experts=count_of(checkpoint.layers[min(paths)].get_submodule(paths[min(paths)])),
        dims=dims,
        paths=paths,
        groups=groups,
        groups_chosen=getattr(text, GROUPS_CHOSEN, None) or 1,
    )


def count_of(experts: nn.Module) -> int:
    """E, of a module of fused experts."""
    return next(len(parameter) for parameter in experts.parameters() if parameter.dim() == 3)


def _experts_of(checkpoint: Checkpoint, layer: nn.Module) -> str | None:
    found = [path for path, module in layer.named_modules() if is_fused_experts(module)]
    if len(found) > 1:
        raise _refused(checkpoint, f"a layer has several mixtures of experts ({', '.join(found)})")
    return found[0] if found else None


def _growth(
    checkpoint: Checkpoint, num_experts: int, groups: int, paths: Mapping[int, str]
) -> tuple[Key, dict[str, int]]:
    """The number of the configuration that says how many experts there are, and the dimensions that go by it."""
    named = [key for key, value in numbers_of(checkpoint.config).items() if value == num_experts]
    experts = {
        f"{checkpoint.layer_prefix(index)}{path}.{name}"
        for index, path in paths.items()
        for name, one in checkpoint.layers[index].get_submodule(path).named_parameters()
        if one.dim() == 3
    }
    for key in sorted(named, key=lambda key: "expert" not in key[-1]):
        fewer = with_numbers(checkpoint.config, {key: num_experts - groups})
        dims = _dims(checkpoint.skeleton, fewer, num_experts, groups)
        if dims is not None and experts <= {name for name, dim in dims.items() if dim == 0}:
            return key, dims
    raise _refused(checkpoint, f"no number of its configuration alone says how many experts there are ({num_experts})")


def _dims(skeleton: nn.Module, fewer: Any, num_experts: int, groups: int) -> dict[str, int] | None:
    """By name, the dimension in which a tensor has ``groups`` less than it had, one for each expert; None where
    something else changes too.
    """
    try:
        smaller = shapes_alone(fewer).state_dict()
    except Exception:  # classes check what they are told in any way they like
        return None
    sizes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    if set(sizes) != set(smaller):
        return None
    dims = {}
    for name, before in sizes.items():
        after = tuple(smaller[name].shape)
        changed = [dim for dim, size in enumerate(before) if size != after[dim]]
        if changed and [(before[dim], after[dim]) for dim in changed] != [(num_experts, num_experts - groups)]:
            return None
        if changed:
            dims[name] = changed[0]
    return dims


def _refused(checkpoint: Checkpoint, why: str) -> ModelError:
    return ModelError(
        f"{checkpoint.source}: no experts of model_type {shown(checkpoint.config.model_type)} can be removed: {why}."
    )
