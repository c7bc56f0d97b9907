"""Models without weights: the modules as they will be, with their parameters on the meta device."""

from __future__ import annotations

from typing import Any

from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM

from slimgpt.arch.family import Family


def empty_model(config: Any) -> nn.Module:
    """The causal LM of a configuration with parameters on the meta device.

    Buffers (rotary frequencies) are real: they are computed, not stored.
    """
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()  # replacing parameters by empty ones has parted those that are shared
    return model.eval().requires_grad_(False)


def prunable_model(config: Any, family: Family) -> nn.Module:
    """An empty model whose layers can be pruned and have the tensor names of checkpoints.

    Raises:
        ModelError: the family cannot describe its layers.
    """
    model = empty_model(config)
    for index, layer in enumerate(model.get_submodule(family.layers).children()):
        family.sites(config.per_layer_config[index])  # says what is wrong before anything looks for it
        family.prepare(layer)
    return model
