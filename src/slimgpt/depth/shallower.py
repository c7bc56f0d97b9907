"""The configuration of a model with fewer decoder layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.skeleton import empty_model

BY_PLACE = ("scale_attn_by_inverse_layer_idx",)
"""Switches that make a layer compute something else at another place."""


def shallower_config(checkpoint: Checkpoint, kept: Sequence[int], dtype: torch.dtype) -> Any:
    """The configuration in which layer ``i`` is what layer ``kept[i]`` was.

    Raises:
        ConfigError: what a layer is depends on its place in a way that fewer layers cannot keep.
    """
    config = checkpoint.config
    for switch in BY_PLACE:
        if getattr(config, switch, False):
            raise ConfigError(f"{checkpoint.source}: {switch} ties what a layer computes to its place: none can go.")
    settings = dict(config.to_dict())
    settings[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(kept)
    if settings.get("layer_types"):
        settings["layer_types"] = [settings["layer_types"][index] for index in kept]
    if settings.get("per_layer_config"):
        own = settings["per_layer_config"]
        settings["per_layer_config"] = {str(new): own[str(old)] for new, old in enumerate(kept) if str(old) in own}
    settings["dtype"] = str(dtype).removeprefix("torch.")
    shallower = type(config).from_dict(settings)
    _check_layers(checkpoint, shallower, kept)
    return shallower


def _check_layers(checkpoint: Checkpoint, config: Any, kept: Sequence[int]) -> None:
    """Every layer of the new model has the tensors of the one that it was."""
    layers: Any = empty_model(config).get_submodule(checkpoint.family.layers)
    for new, old in enumerate(kept):
        checkpoint.family.prepare(layers[new])
        before, after = (
            {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
            for layer in (checkpoint.layers[old], layers[new])
        )
        if before != after:
            raise ConfigError(
                f"{checkpoint.source}: {config.model_type} would make another kind of layer at place {new} than layer "
                f"{old} is, so these layers cannot go: choose another number, or the other --method."
            )
