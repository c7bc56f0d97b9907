"""Qwen2-MoE and Qwen3-MoE: the attention of their dense namesakes, and experts in place of the FFN.

The shared expert of Qwen2-MoE stays whole: every token passes through it, and it is the smaller part of the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2MoeConfig, Qwen3MoeConfig

from slimgpt.arch import experts, gated
from slimgpt.arch.experts import ExpertNames
from slimgpt.arch.family import Family, stock
from slimgpt.errors import ModelError
from slimgpt.sites import FFN, Kept, Site

EXPERTS = ExpertNames("mlp.experts", gate="gate_proj", up="up_proj", down="down_proj")


def sites(config: Any) -> tuple[Site, ...]:
    """Attention, then every expert.

    Raises:
        ModelError: some layers have an ordinary FFN instead of experts.
    """
    if config.mlp_only_layers or config.decoder_sparse_step != 1:
        raise ModelError(
            "this model mixes layers with and without experts (mlp_only_layers, decoder_sparse_step), which is not "
            "supported: all layers must have experts."
        )
    return experts.sites(config, EXPERTS, config.num_experts, config.moe_intermediate_size)


def resized(config: Any, kept: Mapping[str, Kept]) -> dict[str, int]:
    """Head counts and the width of an expert in upstream's names."""
    return {**gated.heads(config, kept), "moe_intermediate_size": kept[FFN].units}


def family(model_type: str, config_class: type, pruned: Mapping[str, str]) -> Family:
    """One of the two."""
    return Family(
        model_type=model_type,
        layers="model.layers",
        sites=sites,
        resized=resized,
        stock_config=stock(config_class),
        pruned=pruned,
        width_multiple=experts.WIDTH_MULTIPLE,
        prepare=lambda layer: experts.separate_(layer, EXPERTS),
    )


QWEN2_MOE = family(
    "qwen2_moe", Qwen2MoeConfig, {**experts.PRUNED, FFN: experts.PRUNED[FFN] + ", and so does the shared expert"}
)
QWEN3_MOE = family("qwen3_moe", Qwen3MoeConfig, experts.PRUNED)
