"""A model of any class that transformers knows, with its parameters on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.auto import modeling_auto

from slimgpt.errors import ModelError

WRITES_TEXT: tuple[Any, ...] = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING,
)


def model_class(config: Any) -> Any:
    """The class that a checkpoint says it was saved from, if transformers itself offers it for this configuration; else
    the first one that writes text.

    Raises:
        ModelError: transformers has no class that writes text for this configuration.
    """
    found = [one for mapping in WRITES_TEXT if (one := mapping.get(type(config), None)) is not None]
    inside = type(config.get_text_config(decoder=True))
    offered = [one for one in found if inside is type(config) or one.config_class is not inside]
    if not offered:
        raise ModelError(f"model_type {config.model_type!r}: transformers has no class of this type that writes text.")
    named = [one for one in offered if one.__name__ in (config.architectures or ())]
    return (named or offered)[0]


def empty_model(config: Any) -> Any:
    """The model of a configuration, its parameters on the meta device, its buffers real: they are computed, not stored.

    Nothing of the parameters' size is ever allocated. Attention is the plain one, whose code reads all it is told.
    """
    one = model_class(config)
    with torch.device("meta"):
        model = one._from_config(config, dtype=torch.float32, attn_implementation="eager")
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.zeros_like(buffer, device="cpu")
    model.initialize_weights()
    model.tie_weights()
    return model.eval().requires_grad_(False)
