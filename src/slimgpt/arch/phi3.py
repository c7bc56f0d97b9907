"""Phi-3: the Llama shape with q, k and v in one projection, and gate and up in another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import Phi3Config

from slimgpt.arch import gated
from slimgpt.arch.family import Family, head_dim, stock
from slimgpt.errors import ConfigError
from slimgpt.sites import Segment, Site

QKV = "self_attn.qkv_proj"
GATE_UP = "mlp.gate_up_proj"


def sites(config: Any) -> tuple[Site, ...]:
    """The rows of qkv are all queries, then all keys, then all values; those of gate_up all gates, then all ups."""
    attention, ffn = gated.sites(config)
    keys = config.num_attention_heads * head_dim(config)
    values = keys + config.num_key_value_heads * head_dim(config)
    qkv = (
        Segment(QKV, attention.unit_width, by_member=True),
        Segment(QKV, head_dim(config), offset=keys),
        Segment(QKV, head_dim(config), offset=values),
    )
    gate_up = (Segment(GATE_UP, 1), Segment(GATE_UP, 1, offset=config.intermediate_size))
    return replace(attention, producers=qkv), replace(ffn, producers=gate_up)


def stock_config(settings: Mapping[str, Any]) -> Any:
    """A stock configuration for equal layers.

    Raises:
        ConfigError: Phi3Config counts the factors of longrope by the number of heads, so that none can go.
    """
    heads, width = settings["num_attention_heads"], settings["head_dim"]
    implied = settings["hidden_size"] // heads
    if settings["rope_parameters"]["rope_type"] == "longrope" and implied != width:
        raise ConfigError(
            f"Phi3Config wants the factors of longrope for heads of {settings['hidden_size']} // {heads} = {implied} "
            f"channels, and these have {width}: no head can go in that class. Use --layout per-layer."
        )
    return stock(Phi3Config)(settings)


PHI3 = Family("phi3", "model.layers", sites, gated.resized, stock_config, gated.PRUNED)
