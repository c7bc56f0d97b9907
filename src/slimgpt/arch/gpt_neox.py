"""GPT-NeoX and Pythia: q, k and v of each head side by side in one projection, attention and FFN in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GPTNeoXConfig

from slimgpt.arch.family import Family, head_dim, stock_with_implied_head_dim
from slimgpt.sites import ATTENTION, FFN, Kept, Segment, Site


def sites(config: Any) -> tuple[Site, ...]:
    """The rows of query_key_value are head after head, each its queries, keys and values."""
    attention = Site(
        name=ATTENTION,
        block="attention",
        consumer="attention.dense",
        producers=(Segment("attention.query_key_value", 3 * head_dim(config)),),
        num_units=config.num_attention_heads,
        unit_width=head_dim(config),
        returns_tuple=True,
        unit="head",
        cache_values=2 * head_dim(config),
    )
    ffn = Site(
        name=FFN,
        block="mlp",
        consumer="mlp.dense_4h_to_h",
        producers=(Segment("mlp.dense_h_to_4h", 1),),
        num_units=config.intermediate_size,
        unit_width=1,
    )
    return attention, ffn


def resized(config: Any, kept: Mapping[str, Kept]) -> dict[str, int]:
    """Heads and FFN width in upstream's names."""
    return {"num_attention_heads": kept[ATTENTION].units, "intermediate_size": kept[FFN].units}


GPT_NEOX = Family(
    model_type="gpt_neox",
    layers="gpt_neox.layers",
    sites=sites,
    resized=resized,
    stock_config=stock_with_implied_head_dim(GPTNeoXConfig),
    pruned={ATTENTION: "heads", FFN: "channels of dense_h_to_4h and dense_4h_to_h"},
    spellings={"embed_out.": "lm_head."},
)
