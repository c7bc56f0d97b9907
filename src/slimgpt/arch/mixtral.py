"""Mixtral: the attention of Mistral, and experts in place of the FFN."""

from __future__ import annotations

from typing import Any

from transformers import MixtralConfig

from slimgpt.arch import experts, gated
from slimgpt.arch.experts import ExpertNames
from slimgpt.arch.family import Family, stock
from slimgpt.sites import Site

EXPERTS = ExpertNames("mlp.experts", gate="w1", up="w3", down="w2")


def sites(config: Any) -> tuple[Site, ...]:
    """Attention, then every expert."""
    return experts.sites(config, EXPERTS, config.num_local_experts, config.intermediate_size)


MIXTRAL = Family(
    model_type="mixtral",
    layers="model.layers",
    sites=sites,
    resized=gated.resized,
    stock_config=stock(MixtralConfig),
    pruned=experts.PRUNED,
    spellings={".block_sparse_moe.": ".mlp."},
    width_multiple=experts.WIDTH_MULTIPLE,
    prepare=lambda layer: experts.separate_(layer, EXPERTS),
)
