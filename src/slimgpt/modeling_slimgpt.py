# Copyright the slimgpt authors. Licensed under the Apache License, Version 2.0.
"""Models whose decoder layers differ in heads and FFN width: what plain transformers needs to load them.

This file travels inside every per-layer checkpoint (``auto_map`` in config.json), so it imports transformers and torch
and nothing else. Sizes live in the configuration under the upstream key ``per_layer_config``; the classes below only
do what most upstream models do not do yet: build each decoder layer from *its* configuration. Parameter names are those
of the stock model.
"""

from __future__ import annotations

import copy
import importlib
from functools import cache
from typing import Any, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D


class Attention(NamedTuple):
    """An attention module whose constructor wants heads that fill the hidden size: it is built whole, and then cut.

    Attributes:
        path: module path in the layer.
        producers: projection that makes queries, keys or values -> how many of the three it makes.
        consumer: projection that reads the heads.
        heads: attribute that holds the number of heads.
        width: attribute that holds heads x head_dim.
    """

    path: str
    producers: dict[str, int]
    consumer: str
    heads: str | None = None
    width: str | None = None


class Block(NamedTuple):
    """A block of a layer that may be gone as a whole.

    Attributes:
        path: module path in the layer.
        returns_tuple: it returns its output and attention weights, rather than its output alone.
    """

    path: str
    returns_tuple: bool = False


GATED = {"attention": Block("self_attn", returns_tuple=True), "ffn": Block("mlp")}


class Base(NamedTuple):
    """A stock model.

    Attributes:
        config: name of its configuration class.
        model: name of its causal LM class.
        layers: module path of its list of decoder layers.
        attention: how to cut attention to size, where the constructor of a layer cannot.
        blocks: by the names that configurations list under ``skip``.
    """

    config: str
    model: str
    layers: str
    attention: Attention | None = None
    blocks: dict[str, Block] = GATED


# by the stock model_type
BASES = {
    "llama": Base("LlamaConfig", "LlamaForCausalLM", "model.layers"),
    "mistral": Base("MistralConfig", "MistralForCausalLM", "model.layers"),
    "qwen2": Base("Qwen2Config", "Qwen2ForCausalLM", "model.layers"),
    "qwen3": Base("Qwen3Config", "Qwen3ForCausalLM", "model.layers"),
    "gemma": Base("GemmaConfig", "GemmaForCausalLM", "model.layers"),
    "gemma2": Base("Gemma2Config", "Gemma2ForCausalLM", "model.layers"),
    "gemma3_text": Base("Gemma3TextConfig", "Gemma3ForCausalLM", "model.layers"),
    "phi3": Base("Phi3Config", "Phi3ForCausalLM", "model.layers"),
    "gpt2": Base(
        "GPT2Config",
        "GPT2LMHeadModel",
        "transformer.h",
        Attention("attn", {"c_attn": 3}, "c_proj", heads="num_heads", width="split_size"),
        {"attention": Block("attn", returns_tuple=True), "ffn": Block("mlp")},
    ),
    "opt": Base(
        "OPTConfig",
        "OPTForCausalLM",
        "model.decoder.layers",
        Attention("self_attn", {"q_proj": 1, "k_proj": 1, "v_proj": 1}, "out_proj", heads="num_heads"),
    ),
    "gpt_neox": Base(
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        "gpt_neox.layers",
        Attention("attention", {"query_key_value": 3}, "dense"),
        {"attention": Block("attention", returns_tuple=True), "ffn": Block("mlp")},
    ),
    "mixtral": Base("MixtralConfig", "MixtralForCausalLM", "model.layers"),
    "qwen2_moe": Base("Qwen2MoeConfig", "Qwen2MoeForCausalLM", "model.layers"),
    "qwen3_moe": Base("Qwen3MoeConfig", "Qwen3MoeForCausalLM", "model.layers"),
}

PREFIX = "slimgpt_"


class LayerView:
    """A layer's own sizes over the model's shared configuration.

    Modules read some sizes at run time (their layer's) and some switches too, such as the attention implementation
    (the model's, which may change after loading): a copy of the configuration would miss the latter.
    """

    def __init__(self, shared: Any, own: dict[str, Any]) -> None:
        self.shared = shared
        self.own = own

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle and copy ask for these before there is a ``shared``
            raise AttributeError(name)
        name = self.shared.attribute_map.get(name, name)
        return self.own[name] if name in self.own else getattr(self.shared, name)


def build_layers_by_their_own_config(model: Any, config: Any, base: Base) -> None:
    """Replace every decoder layer by one built from ``config.per_layer_config[i]``."""
    inside_body = base.layers.removeprefix(model.base_model_prefix + ".")
    layers = model.base_model.get_submodule(inside_body)
    sizes = config.per_layer_attributes or ()
    for index, stock_layer in enumerate(layers):
        layer_config = config.per_layer_config[index]
        layers[index] = build_layer(type(stock_layer), layer_config, index, base.attention)
        for name in getattr(layer_config, "skip", ()):
            block = base.blocks[name]
            layers[index].set_submodule(block.path, Absent(index, block.returns_tuple))
        view = LayerView(config, {name: getattr(layer_config, name) for name in sizes})
        for module in layers[index].modules():
            if isinstance(getattr(module, "config", None), type(config)):
                module.config = view


class Absent(nn.Module):
    """In the place of a block that is gone: it adds nothing to the residual stream.

    An attention that is gone still counts the tokens it has seen, with one number each: a model asks the cache of its
    first layer how long it is.
    """

    def __init__(self, layer_index: int, returns_tuple: bool) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.returns_tuple = returns_tuple

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        """Zeros."""
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if self.returns_tuple and cache is not None:
            mark = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            cache.update(mark, mark, self.layer_index)
        nothing = torch.zeros_like(hidden_states)
        return (nothing, None) if self.returns_tuple else nothing


def build_layer(layer_class: Any, layer_config: Any, index: int, attention: Attention | None) -> Any:
    """A decoder layer of the sizes that ``layer_config`` says."""
    if attention is None:
        return layer_class(layer_config, index)
    whole = copy.copy(layer_config)
    whole.num_attention_heads = whole.hidden_size // whole.head_dim
    layer = layer_class(whole, index)
    cut_attention_(layer, attention, layer_config.num_attention_heads, layer_config.head_dim)
    return layer


def cut_attention_(layer: nn.Module, attention: Attention, heads: int, head_dim: int) -> None:
    """Give the attention of a whole layer ``heads`` heads; scaling stays that of ``head_dim``."""
    module = layer.get_submodule(attention.path)
    width = heads * head_dim
    for name, parts in attention.producers.items():
        setattr(module, name, _resized(getattr(module, name), outputs=parts * width))
    setattr(module, attention.consumer, _resized(getattr(module, attention.consumer), inputs=width))
    for attribute, value in ((attention.heads, heads), (attention.width, width)):
        if attribute is not None:
            setattr(module, attribute, value)


def _resized(old: Any, inputs: int | None = None, outputs: int | None = None) -> nn.Module:
    """A fresh projection of the same kind with other sizes."""
    if isinstance(old, Conv1D):
        return Conv1D(outputs or old.nf, inputs or old.nx)
    return nn.Linear(inputs or old.in_features, outputs or old.out_features, bias=old.bias is not None)


def _config_class(model_type: str, base: type) -> type:
    def validate_architecture(self: Any) -> None:
        """Head counts here are per layer and keep ``head_dim``: divisibility of the hidden size is moot."""

    def validate_rope(self: Any) -> None:
        """The stock rules, which speak of the sizes of the whole model."""
        whole = copy.copy(self)
        whole.per_layer_config = None
        base.validate_rope(whole)  # type: ignore[attr-defined]

    name = "Slim" + base.__name__
    body = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with ``per_layer_config`` in use.",
        "model_type": PREFIX + model_type,
        "_auto_class": "AutoConfig",
        "validate_architecture": validate_architecture,
        "validate_rope": validate_rope,
    }
    return strict(type(name, (base,), body))  # collects the validators anew, ours in place of the stock ones


def _model_class(config_class: type, stock: type, base: Base, auto_class: str) -> type:
    def __init__(self: Any, config: Any) -> None:  # noqa: N807
        overrides = config.to_dict().get("per_layer_config")
        config.per_layer_config = None  # the stock constructor reads global sizes
        stock.__init__(self, config)  # type: ignore[misc]
        config.per_layer_config = overrides
        build_layers_by_their_own_config(self, config, base)
        self.post_init()

    name = "Slim" + stock.__name__
    body = {
        "__module__": __name__,
        "__doc__": f"{stock.__name__} whose decoder layers have their own numbers of heads and FFN channels.",
        "config_class": config_class,
        "_auto_class": auto_class,
        "__init__": __init__,
    }
    return type(name, (stock,), body)


def _share_conversion(model_type: str) -> None:
    """Let transformers fuse the experts of our checkpoints while loading, as it does for the stock model."""
    conversion = get_checkpoint_conversion_mapping(model_type)
    if conversion is not None:
        register_checkpoint_conversion_mapping(PREFIX + model_type, conversion, overwrite=True)


class SlimClasses(NamedTuple):
    """What transformers loads a family's checkpoints with: configuration, decoder alone, and causal LM."""

    config: type
    body: type
    model: type


@cache
def slim_classes(model_type: str) -> SlimClasses:
    """The classes for a stock ``model_type``, made once and kept in this module."""
    base = BASES[model_type]
    transformers = importlib.import_module("transformers")
    stock_config = getattr(transformers, base.config)
    config = _config_class(model_type, stock_config)
    body = _model_class(config, transformers.MODEL_MAPPING[stock_config], base, "AutoModel")
    model = _model_class(config, getattr(transformers, base.model), base, "AutoModelForCausalLM")
    _share_conversion(model_type)
    classes = SlimClasses(config, body, model)
    globals().update({one.__name__: one for one in classes})
    return classes


def __getattr__(name: str) -> type:
    """Make a family's classes when transformers (or pickle) first asks this module for one of them."""
    for model_type, base in BASES.items():
        names = base.config, MODEL_MAPPING_NAMES.get(model_type), base.model
        for one, stock in zip(SlimClasses._fields, names, strict=True):
            if name == f"Slim{stock}":
                return getattr(slim_classes(model_type), one)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Teach transformers' Auto classes every family, so that no remote code is needed. Safe to call again."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    for model_type in BASES:
        classes = slim_classes(model_type)
        AutoConfig.register(PREFIX + model_type, classes.config, exist_ok=True)
        AutoModel.register(classes.config, classes.body, exist_ok=True)
        AutoModelForCausalLM.register(classes.config, classes.model, exist_ok=True)
