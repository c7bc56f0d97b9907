"""vLLM's own models with decoder layers of their own sizes. Imported by vLLM, which has to be there."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vllm.model_executor.models.utils import extract_layer_index

from slimgpt.modeling_slimgpt import slim_name, stock_models
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

    def __init__(self: Any, *, prefix: str, **arguments: Any) -> None:  # noqa: N807
        own = model_config.hf_config.per_layer_config[extract_layer_index(prefix)]
        for name, value in settings.items():
            setattr(own, name, value)
        if "config" in arguments:
            arguments["config"] = own
        with _in_place(model_config, own):
            stock_init(self, prefix=prefix, **arguments)

    layer_class.__init__ = __init__
    try:
        yield
    finally:
        layer_class.__init__ = stock_init


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
