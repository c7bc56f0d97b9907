"""Models without weights: the modules as they will be, with their parameters on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from slimgpt.arch.family import Family
from slimgpt.model.families import auto_class


def empty_model(config: Any) -> nn.Module:
    """The causal LM of a configuration with parameters on the meta device.

    Buffers (rotary frequencies) are real: they are computed, not stored.
    """
    with init_empty_weights(include_buffers=False):
        model = auto_class(config).from_config(config, trust_remote_code=False)
    return _resting(model)


def shapes_alone(config: Any) -> nn.Module:
    """The same with its buffers on the meta device too: it takes no memory, whatever the configuration says."""
    with torch.device("meta"):
        model = auto_class(config).from_config(config, trust_remote_code=False)
    return _resting(model)


def prunable_model(config: Any, family: Family, build: Callable[[Any], nn.Module] = empty_model) -> nn.Module:
    """An empty model whose layers can be pruned and have the tensor names of checkpoints.

    Raises:
        ModelError: the family cannot describe its layers.
    """
    model = build(config)
    for index, layer in enumerate(model.get_submodule(family.layers).children()):
        family.sites(family.layer_config(config, index))  # says what is wrong before anything looks for it
        family.prepare(layer)
    return model


def _resting(model: Any) -> nn.Module:
    model.tie_weights()  # replacing parameters by empty ones has parted those that are shared
    return model.eval().requires_grad_(False)
