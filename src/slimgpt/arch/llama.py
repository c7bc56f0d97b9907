"""Llama 1, 2 and 3: q/k/v/o attention, MHA or grouped queries, and a gated FFN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig, MistralConfig

from slimgpt.arch.family import ATTENTION, FFN, Family
from slimgpt.errors import ConfigError
from slimgpt.sites import Segment, Site


def sites(config: Any) -> tuple[Site, ...]:
    """A KV head goes with all its query heads, so that ``repeat_kv`` still pairs every survivor correctly."""
    queries_per_group = config.num_attention_heads // config.num_key_value_heads
    group_width = queries_per_group * config.head_dim
    attention = Site(
        name=ATTENTION,
        block="self_attn",
        consumer="self_attn.o_proj",
        producers=(
            Segment("self_attn.q_proj", group_width),
            Segment("self_attn.k_proj", config.head_dim),
            Segment("self_attn.v_proj", config.head_dim),
        ),
        num_units=config.num_key_value_heads,
        unit_width=group_width,
        returns_tuple=True,
    )
    ffn = Site(
        name=FFN,
        block="mlp",
        consumer="mlp.down_proj",
        producers=(Segment("mlp.gate_proj", 1), Segment("mlp.up_proj", 1)),
        num_units=config.intermediate_size,
        unit_width=1,
    )
    return attention, ffn


def resized(config: Any, kept: Mapping[str, int]) -> dict[str, int]:
    """The layer's head counts and FFN width in upstream's names."""
    queries_per_group = config.num_attention_heads // config.num_key_value_heads
    return {
        "num_attention_heads": kept[ATTENTION] * queries_per_group,
        "num_key_value_heads": kept[ATTENTION],
        "intermediate_size": kept[FFN],
    }


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


LLAMA = Family(
    model_type="llama",
    layers="model.layers",
    sites=sites,
    resized=resized,
    stock_config=stock_config,
    pruned={ATTENTION: "KV groups (a KV head with its query heads)", FFN: "channels of gate/up/down"},
)
