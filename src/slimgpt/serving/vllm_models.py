"""vLLM's own models with decoder layers of their own sizes. Imported by vLLM, which has to be there."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import get_current_vllm_config
from vllm.model_executor.models.utils import extract_layer_index

from slimgpt.modeling_slimgpt import GATED, slim_name, stock_models
from slimgpt.serving.native import NATIVE, Native

MODELS = "vllm.model_executor.models"


def native_class(native: Native) -> type:
    """The class of vLLM, whose layers are built by ``config.per_layer_config[i]``."""
    stock = _named(native.module, native.model)
    layer_class = _named(native.layer_module, native.layer)

    class Slim(stock):  # type: ignore[misc, valid-type]
        __doc__ = f"{native.model} of vLLM whose decoder layers have their own sizes."

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            with layers_by_their_own_config(layer_class, vllm_config.model_config, native.settings):
                super().__init__(vllm_config=vllm_config, prefix=prefix)

    return Slim


@contextmanager
def layers_by_their_own_config(layer_class: Any, model_config: Any, settings: Mapping[str, Any]) -> Iterator[None]:
    """Until the end, a new layer finds its own configuration wherever it looks: in its arguments and in vLLM's.

    Models differ in how they could be given another class of layers, and some have no way at all; all of them call the
    constructor.
    """
    stock_init = layer_class.__init__
    signature = inspect.signature(stock_init)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        call = signature.bind(self, *args, **kwargs)
        arguments = call.arguments
        own = model_config.hf_config.per_layer_config[extract_layer_index(arguments["prefix"])]
        for name, value in settings.items():
            setattr(own, name, value)
        if "config" in arguments:
            arguments["config"] = own
        with _in_place(model_config, own):
            stock_init(*call.args, **call.kwargs)
        for name in getattr(own, "skip", ()):
            take_out_(self, GATED[name].path, arguments["prefix"])

    layer_class.__init__ = __init__
    try:
        yield
    finally:
        layer_class.__init__ = stock_init


class Absent(nn.Module):
    """In the place of a block that is gone: it adds nothing to the residual stream."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Zeros."""
        return torch.zeros_like(kwargs["hidden_states"] if kwargs else args[0])


def take_out_(layer: nn.Module, block: str, prefix: str) -> None:
    """Remove a block from its layer, and from those that vLLM gives a cache."""
    setattr(layer, block, Absent())
    known = get_current_vllm_config().compilation_config.static_forward_context
    for name in [name for name in known if name.startswith(f"{prefix}.{block}.")]:
        del known[name]


@contextmanager
def _in_place(model_config: Any, own: Any) -> Iterator[None]:
    """A layer's configuration in the place of the model's."""
    whole = model_config.hf_config, model_config.hf_text_config
    model_config.hf_config = model_config.hf_text_config = own
    try:
        yield
    finally:
        model_config.hf_config, model_config.hf_text_config = whole


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"{MODELS}.{module}"), name)


def __getattr__(name: str) -> type:
    """Make the class that vLLM's registry asks for."""
    for model_type, native in NATIVE.items():
        if name == slim_name(stock_models(model_type)["AutoModelForCausalLM"]):
            made = native_class(native)
            made.__name__ = made.__qualname__ = name
            globals()[name] = made
            return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
