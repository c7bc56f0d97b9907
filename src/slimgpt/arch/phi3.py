"""Phi-3: the Llama shape with q, k and v in one projection, and gate and up in another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import Phi3Config

from slimgpt.arch import gated
from slimgpt.arch.family import Family, head_dim, stock
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


PHI3 = Family("phi3", "model.layers", sites, gated.resized, stock(Phi3Config), gated.PRUNED)
