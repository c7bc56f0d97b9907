"""Llama 1, 2 and 3: multi-head or grouped-query attention, any rope scaling, optional biases."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig, MistralConfig

from slimgpt.arch import gated
from slimgpt.errors import ConfigError


def stock_config(settings: Mapping[str, Any]) -> Any:
    """A stock configuration for equal layers.

    LlamaConfig wants hidden_size to be a multiple of the number of heads even where head_dim is given. A Llama without
    biases is a Mistral without a sliding window, parameter by parameter, and MistralConfig does not mind.

    Raises:
        ConfigError: neither class can hold the model.
    """
    if settings["hidden_size"] % settings["num_attention_heads"] == 0:
        return LlamaConfig(**settings)
    if settings.get("attention_bias") or settings.get("mlp_bias"):
        raise ConfigError(
            f"{settings['num_attention_heads']} heads do not divide the hidden size {settings['hidden_size']}, which "
            "LlamaConfig refuses, and Mistral has no biases: use --layout per-layer, or another --ratio."
        )
    known = MistralConfig().to_dict()
    return MistralConfig(**{**{key: settings[key] for key in settings if key in known}, "sliding_window": None})


LLAMA = dataclasses.replace(gated.family("llama", stock_config), bias_keys=("attention_bias", "mlp_bias"))
