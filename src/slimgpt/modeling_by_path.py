# Copyright the slimgpt authors. Licensed under the Apache License, Version 2.0.
"""Models of any stock class whose decoder layers have sizes of their own: what plain transformers needs to load them.

This file travels inside checkpoints (``auto_map`` in config.json), so it imports torch and transformers and no more. It
names no model. The configuration is the stock one and one key more, ``slimgpt_layers``: where the decoder layers are,
and for each of them the tensors that have other sizes than the stock constructor gives them, the attributes of modules
that have other values, and the configuration keys that its modules see. They are applied when the stock constructor is
done, so that parameter names and code are those of the stock model.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

PREFIX = "slimgpt_"
LAYERS = "slimgpt_layers"
NAME, OF = "Slim", "__"

AUTO_CLASSES = {
    "AutoModel": "MODEL_MAPPING",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "AutoModelForMultimodalLM": "MODEL_FOR_MULTIMODAL_LM_MAPPING",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
}
"""transformers' doors to a checkpoint, and what lies behind each: configuration class -> model class."""


class OwnSizes:
    """A configuration as the modules of one layer see it: some keys are the layer's own.

    (``View`` of modeling_slimgpt.py is the same: each of the two files lies alone in its checkpoints.)
    """

    def __init__(self, shared: Any, own: dict[str, Any]) -> None:
        self.shared = shared
        self.own = own

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle and copy ask for these before there is a ``shared``
            raise AttributeError(name)
        name = self.shared.attribute_map.get(name, name)
        return self.own[name] if name in self.own else getattr(self.shared, name)


def resize_layer_(layer: nn.Module, own: dict[str, Any]) -> None:
    """Give a layer its own sizes, in place; the tensors that change are empty.

    ``own`` has up to three parts: ``tensors`` (path -> shape), ``attributes`` (module path -> name -> value) and
    ``config`` (key -> value).
    """
    for path, shape in own.get("tensors", {}).items():
        owner, _, leaf = path.rpartition(".")
        module = layer.get_submodule(owner)
        old = module.get_parameter(leaf)
        empty = torch.empty(shape, dtype=old.dtype, device=old.device)
        setattr(module, leaf, nn.Parameter(empty, requires_grad=old.requires_grad))
        _restate_sizes_(module)
    state_sizes_(layer, own)


def state_sizes_(layer: nn.Module, own: dict[str, Any]) -> None:
    """The same of what is no tensor. Safe to call again.

    Raises:
        ValueError: something else than numbers is to be set, or in place of something else.
    """
    for path, values in own.get("attributes", {}).items():
        module = layer.get_submodule(path)
        for name, value in values.items():
            if not _are_numbers(value) or not _are_numbers(getattr(module, name, None)):
                raise ValueError(f"{path}.{name} cannot be set to {value!r}")
            setattr(module, name, tuple(value) if isinstance(value, list) else value)
    if keys := own.get("config"):
        if not _are_numbers(list(keys.values())):
            raise ValueError(f"a layer's configuration cannot say {keys!r}")
        configured: list[Any] = [one for one in layer.modules() if getattr(one, "config", None) is not None]
        shared = [_shared(module.config) for module in configured]
        for module, config in zip(configured, shared, strict=True):
            if type(config) is type(shared[0]):
                module.config = OwnSizes(config, keys)


def _shared(config: Any) -> Any:
    return config.shared if isinstance(config, OwnSizes) else config


def _are_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_are_numbers, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _restate_sizes_(module: Any) -> None:
    """Sizes that a projection prints, in step with its weight."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif hasattr(module, "nx") and hasattr(module, "nf"):  # transformers' Conv1D, which is stored transposed
        module.nx, module.nf = module.weight.shape


def decoder_layers(model: Any, path: str) -> Any:
    """The decoder layers that lie at ``path`` in the class of the checkpoint, in this class or in the body alone."""
    inside = path.partition(".")[2]
    for one in (path, inside, f"{model.base_model_prefix}.{inside}"):
        try:
            return model.get_submodule(one)
        except AttributeError:
            continue
    raise AttributeError(f"{type(model).__name__} has no decoder layers at {path}")


@cache
def _slim_class(stock: Any, config: Any) -> Any:
    made = _slim_config(config) if stock is None else _slim_model(stock, config)
    globals()[made.__name__] = made
    return made


def slim_config(stock: Any) -> Any:
    """The configuration class of ours that goes with a stock one, made once and kept in this module."""
    return _slim_class(None, stock)


def slim_model(stock: Any, config: Any) -> Any:
    """The model class of ours that goes with a stock one and the stock class of its configurations: several types of
    configuration may share a model.
    """
    return _slim_class(stock, config)


def slim_name(stock: Any, config: Any) -> str:
    """What that is called."""
    shared = stock.config_class is not config
    return f"{NAME}{config.__name__}{OF}{stock.__name__}" if shared else NAME + stock.__name__


def _slim_config(stock: Any) -> Any:
    body = {"__module__": __name__, "__doc__": f"{stock.__name__} of a model with ``{LAYERS}``."}
    return type(NAME + stock.__name__, (stock,), {**body, "model_type": PREFIX + stock.model_type})


def _slim_model(stock: Any, stock_config: Any) -> Any:
    def __init__(self: Any, config, *args: Any, **kwargs: Any) -> None:  # type: ignore[no-untyped-def]  # noqa: N807
        stock.__init__(self, config, *args, **kwargs)
        sizes = getattr(config, LAYERS)
        for layer, own in zip(decoder_layers(self, sizes["path"]), sizes["layers"], strict=True):
            resize_layer_(layer, own)
        self.post_init()

    body = {
        "__module__": __name__,
        "__doc__": f"{stock.__name__} whose decoder layers have sizes of their own.",
        "config_class": slim_config(stock_config),
        "__init__": __init__,
        # or transformers would leave buffers alone that a module computes for those inside it
        "is_custom_code": classmethod(lambda cls: False),
    }
    name = slim_name(stock, stock_config)
    _share_conversion(stock.__name__, name)
    _share_conversion(stock_config.model_type, PREFIX + stock_config.model_type)
    return type(name, (stock,), body)


def _share_conversion(stock: str, ours: str) -> None:
    """Let transformers rename and fuse the tensors of our checkpoints while loading, as it does for the stock model."""
    conversion = get_checkpoint_conversion_mapping(stock)
    if conversion is not None:
        register_checkpoint_conversion_mapping(ours, conversion, overwrite=True)


def _auto_lists() -> Any:
    """transformers' lists of classes, imported as late as this: slimgpt looks at this file when they are."""
    return importlib.import_module("transformers.models.auto.modeling_auto")


def models_of(stock_config: Any) -> dict[str, Any]:
    """Stock model classes of a configuration class, not of a part of it, by the names of Auto classes."""
    lists = _auto_lists()
    offered = {auto: getattr(lists, mapping).get(stock_config, None) for auto, mapping in AUTO_CLASSES.items()}
    inside = set(stock_config.sub_configs.values())
    return {auto: one for auto, one in offered.items() if one is not None and one.config_class not in inside}


def __getattr__(name: str) -> Any:
    """Make a class when transformers (or pickle) first asks this module for it."""
    said, _, model = name.removeprefix(NAME).partition(OF)
    stock = getattr(transformers, said, None) if name.startswith(NAME) else None
    if isinstance(stock, type) and issubclass(stock, PreTrainedConfig):
        return slim_model(getattr(transformers, model), stock) if model else slim_config(stock)
    if isinstance(stock, type) and issubclass(stock, PreTrainedModel):
        return slim_model(stock, stock.config_class)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Door:
    """Stands in transformers' list of configurations until a checkpoint of its type is read: to make the classes of all
    types at once would import all their modules.
    """

    @classmethod
    def from_dict(cls, settings: dict[str, Any], **kwargs: Any) -> Any:
        """As that of the configuration class that ``settings`` name."""
        stock = CONFIG_MAPPING[settings["model_type"].removeprefix(PREFIX)]
        register_type(stock)
        return slim_config(stock).from_dict(settings, **kwargs)


def register_type(stock_config: Any) -> None:
    """Teach transformers' Auto classes the models of one configuration class. Safe to call again."""
    ours = slim_config(stock_config)
    CONFIG_MAPPING.register(ours.model_type, ours, exist_ok=True)
    for auto, stock in models_of(stock_config).items():
        getattr(transformers, auto).register(ours, slim_model(stock, stock_config), exist_ok=True)


def register() -> None:
    """Teach transformers' AutoConfig every type that writes text, so that no remote code is needed."""
    lists = _auto_lists()
    for model_type in {
        *lists.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *lists.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        *lists.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    }:
        if PREFIX + model_type not in CONFIG_MAPPING:
            mapping: Any = CONFIG_MAPPING
            mapping.register(PREFIX + model_type, Door, exist_ok=True)
