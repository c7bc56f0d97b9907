# Copyright the slimgpt authors. Licensed under the Apache License, Version 2.0.
"""Models whose decoder layers differ in heads and FFN width: what plain transformers needs to load them.

This file travels inside every per-layer checkpoint (``auto_map`` in config.json), so it imports transformers and
nothing else. Sizes live in the configuration under the upstream key ``per_layer_config``; the classes below only do
what most upstream models do not do yet: build each decoder layer from *its* configuration. Parameter names are those
of the stock model.
"""

from __future__ import annotations

import importlib
from typing import Any

from huggingface_hub.dataclasses import strict

# model_type of the stock model -> (configuration class, causal LM class, path of its list of decoder layers)
BASES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", "model.layers"),
}

PREFIX = "slimgpt_"


def build_layers_by_their_own_config(model: Any, config: Any, path: str) -> None:
    """Replace every decoder layer by one built from ``config.per_layer_config[i]``."""
    layers = model.get_submodule(path)
    for index, layer in enumerate(layers):
        layer_config = config.per_layer_config[index]
        layers[index] = type(layer)(layer_config, index)
        for module in layers[index].modules():
            # Run-time switches such as the attention implementation are read from one shared configuration.
            if getattr(module, "config", None) is layer_config:
                module.config = config


def _config_class(model_type: str, base: type) -> type:
    def validate_architecture(self: Any) -> None:
        """Head counts here are per layer and keep ``head_dim``: divisibility of the hidden size is moot."""

    name = "Slim" + base.__name__
    body = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with ``per_layer_config`` in use.",
        "model_type": PREFIX + model_type,
        "_auto_class": "AutoConfig",
        "validate_architecture": validate_architecture,
    }
    return strict(type(name, (base,), body))  # collects the validators anew, ours in place of the stock one


def _model_class(config_class: type, base: type, path: str) -> type:
    def __init__(self: Any, config: Any) -> None:  # noqa: N807
        overrides = config.to_dict().get("per_layer_config")
        config.per_layer_config = None  # the stock constructor reads global sizes
        base.__init__(self, config)
        config.per_layer_config = overrides
        build_layers_by_their_own_config(self, config, path)
        self.post_init()

    name = "Slim" + base.__name__
    body = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} whose decoder layers have their own numbers of heads and FFN channels.",
        "config_class": config_class,
        "_auto_class": "AutoModelForCausalLM",
        "__init__": __init__,
    }
    return type(name, (base,), body)


def slim_classes(model_type: str) -> tuple[type, type]:
    """The (configuration, causal LM) classes for a stock ``model_type``, made once and kept in this module."""
    config_name, model_name, path = BASES[model_type]
    if "Slim" + model_name not in globals():
        transformers = importlib.import_module("transformers")
        config_class = _config_class(model_type, getattr(transformers, config_name))
        model_class = _model_class(config_class, getattr(transformers, model_name), path)
        globals().update({config_class.__name__: config_class, model_class.__name__: model_class})
    return globals()["Slim" + config_name], globals()["Slim" + model_name]


def __getattr__(name: str) -> type:
    """Make a family's classes when transformers (or pickle) first asks this module for one of them."""
    for model_type, (config_name, model_name, _) in BASES.items():
        if name in ("Slim" + config_name, "Slim" + model_name):
            return slim_classes(model_type)[name == "Slim" + model_name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Teach transformers' Auto classes every family, so that no remote code is needed. Safe to call again."""
    from transformers import AutoConfig, AutoModelForCausalLM

    for model_type in BASES:
        config_class, model_class = slim_classes(model_type)
        AutoConfig.register(PREFIX + model_type, config_class, exist_ok=True)
        AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
