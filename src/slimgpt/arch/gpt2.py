"""GPT-2: one transposed projection for q, k and v, learned positions, a plain FFN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GPT2Config

from slimgpt.arch.family import Family, head_dim, stock_with_implied_head_dim
from slimgpt.sites import ATTENTION, FFN, Kept, Segment, Site


def sites(config: Any) -> tuple[Site, ...]:
    """The outputs of c_attn are all queries, then all keys, then all values."""
    width = config.num_attention_heads * head_dim(config)
    attention = Site(
        name=ATTENTION,
        block="attn",
        consumer="attn.c_proj",
        producers=tuple(Segment("attn.c_attn", head_dim(config), offset=part * width) for part in range(3)),
        num_units=config.num_attention_heads,
        unit_width=head_dim(config),
        returns_tuple=True,
        unit="head",
        cache_values=2 * head_dim(config),
    )
    ffn = Site(
        name=FFN,
        block="mlp",
        consumer="mlp.c_proj",
        producers=(Segment("mlp.c_fc", 1),),
        num_units=config.n_inner or 4 * config.hidden_size,
        unit_width=1,
    )
    return attention, ffn


def resized(config: Any, kept: Mapping[str, Kept]) -> dict[str, int]:
    """Heads and FFN width in upstream's names."""
    return {"n_head": kept[ATTENTION].units, "n_inner": kept[FFN].units}


GPT2 = Family(
    model_type="gpt2",
    layers="transformer.h",
    sites=sites,
    resized=resized,
    stock_config=stock_with_implied_head_dim(GPT2Config, heads="n_head", hidden="n_embd"),
    pruned={ATTENTION: "heads", FFN: "channels of c_fc and c_proj"},
)
