# Copyright the slimgpt authors. Licensed under the Apache License, Version 2.0.
"""Models whose decoder layers differ in heads and FFN width: what plain transformers needs to load them.

This file travels inside every per-layer checkpoint (``auto_map`` in config.json), so it imports transformers and torch
and nothing else. Sizes live in the configuration under the upstream key ``per_layer_config``; the classes below only
do what most upstream models do not do yet: build each decoder layer from *its* configuration. Parameter names are those
of the stock model.

What differs between layers is read from ``config.per_layer_config[i]``. The configuration itself answers what all
layers have in common, and refuses the rest, as upstream's does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
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
    """A stock architecture.

    Attributes:
        layers: module path in its body (the model without a head) of the list of decoder layers.
        attention: how to cut attention to size, where the constructor of a layer cannot.
        blocks: by the names that configurations list under ``skip``.
    """

    layers: str
    attention: Attention | None = None
    blocks: dict[str, Block] = GATED


# by the stock model_type
BASES = {
    "llama": Base("layers"),
    "mistral": Base("layers"),
    "qwen2": Base("layers"),
    "qwen3": Base("layers"),
    "gemma": Base("layers"),
    "gemma2": Base("layers"),
    "gemma3_text": Base("layers"),
    "phi3": Base("layers"),
    "gpt2": Base(
        "h",
        Attention("attn", {"c_attn": 3}, "c_proj", heads="num_heads", width="split_size"),
        {"attention": Block("attn", returns_tuple=True), "ffn": Block("mlp")},
    ),
    "opt": Base(
        "decoder.layers",
        Attention("self_attn", {"q_proj": 1, "k_proj": 1, "v_proj": 1}, "out_proj", heads="num_heads"),
    ),
    "gpt_neox": Base(
        "layers",
        Attention("attention", {"query_key_value": 3}, "dense"),
        {"attention": Block("attention", returns_tuple=True), "ffn": Block("mlp")},
    ),
    "mixtral": Base("layers"),
    "qwen2_moe": Base("layers"),
    "qwen3_moe": Base("layers"),
}

# by Auto class: transformers' table of the stock classes that it loads, by model_type
STOCK = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}

PREFIX = "slimgpt_"


class View:
    """Sizes of one place in the model over its shared configuration.

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


def view_of_layer(config: Any, index: int) -> View:
    """What the modules of a decoder layer see."""
    own = config.per_layer_config[index]
    return View(config, {name: getattr(own, name) for name in config.per_layer_attributes})


def view_outside_layers(config: Any) -> View:
    """What modules beside the layers see. Those of rotary embeddings divide the hidden size by the number of heads, for
    want of a ``head_dim``, even where there is one: they find as many heads as fill it.
    """
    return View(config, {config.attribute_map.get("num_attention_heads", "num_attention_heads"): full_heads(config)})


def full_heads(config: Any) -> int:
    """Heads that fill the hidden size."""
    return max(1, config.hidden_size // config.head_dim)


def build_layers_by_their_own_config(model: Any, config: Any, base: Base) -> None:
    """Replace every decoder layer by one built from ``config.per_layer_config[i]``."""
    layers = model.base_model.get_submodule(base.layers)
    for index, stock_layer in enumerate(layers):
        layer_config = config.per_layer_config[index]
        layers[index] = build_layer(type(stock_layer), layer_config, index, base.attention)
        for name in getattr(layer_config, "skip", ()):
            block = base.blocks[name]
            layers[index].set_submodule(block.path, Absent(index, block.returns_tuple))
        show(view_of_layer(config, index), layers[index], type(config))
    show(view_outside_layers(config), model, type(config))


def show(view: View, root: nn.Module, config_class: type) -> None:
    """Put ``view`` in the place of the configuration in the modules under ``root``; models keep the shared one."""
    module: Any
    for module in root.modules():
        if isinstance(getattr(module, "config", None), config_class):
            module.config = view.shared if isinstance(module, PreTrainedModel) else view


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
    whole.num_attention_heads = full_heads(whole)
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


def _config_class(model_type: str, base: Any) -> type:
    def __getattribute__(self: Any, name: str) -> Any:  # noqa: N807
        try:
            return base.__getattribute__(self, name)
        except RuntimeError:  # what any layer has otherwise than config.json says, upstream refuses
            if not self.is_heterogeneous:
                raise
            first, *others = (getattr(layer, name) for layer in self.per_layer_config)
            if any(other != first for other in others):
                raise
            return first

    def validate_architecture(self: Any) -> None:
        """Head counts here are per layer and keep ``head_dim``: divisibility of the hidden size is moot."""

    def validate_rope(self: Any) -> None:
        """The stock rules, which speak of the sizes of the whole model."""
        whole = copy.copy(self)
        whole.per_layer_config = None
        base.validate_rope(whole)

    body = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with ``per_layer_config`` in use.",
        "__getattribute__": __getattribute__,
        "model_type": PREFIX + model_type,
        "_auto_class": "AutoConfig",
        "validate_architecture": validate_architecture,
        "validate_rope": validate_rope,
    }
    slim = type(slim_name(base.__name__), (base,), body)
    return strict(slim)  # collects the validators anew, ours in place of the stock ones


def _model_class(config_class: type, stock: Any, base: Base, auto_class: str, body_name: str) -> type:
    def __init__(self: Any, config: Any) -> None:  # noqa: N807
        with equal_layers(config):  # the stock constructor reads global sizes
            stock.__init__(self, config)
        if config.is_heterogeneous:  # else this is the body of a model that is being built, and builds them
            build_layers_by_their_own_config(self, config, base)
            self.post_init()

    # vLLM holds positional arguments against these, which are strings here, and counts ``self`` as one
    __init__.__annotations__ = {}
    body = {
        "__module__": __name__,
        "__doc__": f"{stock.__name__} whose decoder layers have their own numbers of heads and FFN channels.",
        "config_class": config_class,
        "base_model_prefix": body_name,  # some stock heads call it otherwise, and find no layers to load
        "_auto_class": auto_class,
        "__init__": __init__,
    }
    return type(slim_name(stock.__name__), (stock,), body)


@contextmanager
def equal_layers(config: Any) -> Iterator[None]:
    """Take the layers' own sizes out of the configuration for a while."""
    own = config.to_dict().get("per_layer_config")
    config.per_layer_config = None
    try:
        yield
    finally:
        config.per_layer_config = own


def _share_conversion(stock: str, ours: str) -> None:
    """Let transformers read our checkpoints as it does those of a stock model_type or class: fuse experts, rename."""
    conversion = get_checkpoint_conversion_mapping(stock)
    if conversion is not None:
        register_checkpoint_conversion_mapping(ours, conversion, overwrite=True)


class SlimClasses(NamedTuple):
    """What transformers loads a family's checkpoints with: the configuration, and models by their Auto class."""

    config: type
    models: dict[str, type]


@cache
def slim_classes(model_type: str) -> SlimClasses:
    """The classes for a stock ``model_type``, made once, kept in this module and known to the Auto classes."""
    import transformers  # not above: this may be imported while that is, and another module takes its place then

    stock = {auto: getattr(transformers, name) for auto, name in stock_models(model_type).items()}
    body_name = stock["AutoModelForCausalLM"].base_model_prefix
    config = _config_class(model_type, transformers.CONFIG_MAPPING[model_type])
    models = {auto: _model_class(config, one, BASES[model_type], auto, body_name) for auto, one in stock.items()}
    _share_conversion(model_type, PREFIX + model_type)
    for name in (one.__name__ for one in stock.values()):
        _share_conversion(name, slim_name(name))
    globals().update({one.__name__: one for one in (config, *models.values())})
    for auto, model in models.items():  # heads make their bodies by AutoModel
        getattr(transformers, auto).register(config, model, exist_ok=True)
    return SlimClasses(config, models)


def stock_models(model_type: str) -> dict[str, str]:
    """Names of the stock classes by the Auto class that loads them."""
    from transformers.models.auto import modeling_auto  # whose import may want all of this module (slimgpt/__init__.py)

    tables = {auto: getattr(modeling_auto, table) for auto, table in STOCK.items()}
    return {auto: names[model_type] for auto, names in tables.items() if model_type in names}


def slim_name(stock: str) -> str:
    """What our version of a stock class is called."""
    return "Slim" + stock


def __getattr__(name: str) -> type:
    """Make a family's classes when transformers (or pickle) first asks this module for one of them."""
    from transformers import CONFIG_MAPPING

    for model_type in BASES:
        if name in map(slim_name, (CONFIG_MAPPING[model_type].__name__, *stock_models(model_type).values())):
            slim_classes(model_type)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Teach transformers' Auto classes every family, so that no remote code is needed. Safe to call again."""
    from transformers import AutoConfig

    for model_type in BASES:
        AutoConfig.register(PREFIX + model_type, slim_classes(model_type).config, exist_ok=True)
