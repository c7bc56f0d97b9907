"""OPT: multi-head attention with biases, learned positions, a plain FFN that has no module of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import OPTConfig

from slimgpt.arch.family import Family, head_dim, stock_with_implied_head_dim
from slimgpt.sites import ATTENTION, FFN, Kept, Segment, Site


def sites(config: Any) -> tuple[Site, ...]:
    """Attention, then the two projections of the FFN, which lie in the layer itself."""
    attention = Site(
        name=ATTENTION,
        block="self_attn",
        consumer="self_attn.out_proj",
        producers=tuple(Segment(f"self_attn.{name}", head_dim(config)) for name in ("q_proj", "k_proj", "v_proj")),
        num_units=config.num_attention_heads,
        unit_width=head_dim(config),
        returns_tuple=True,
        unit="head",
        cache_values=2 * head_dim(config),
    )
    ffn = Site(
        name=FFN, block=None, consumer="fc2", producers=(Segment("fc1", 1),), num_units=config.ffn_dim, unit_width=1
    )
    return attention, ffn


def resized(config: Any, kept: Mapping[str, Kept]) -> dict[str, int]:
    """Heads and FFN width in upstream's names."""
    return {"num_attention_heads": kept[ATTENTION].units, "ffn_dim": kept[FFN].units}


OPT = Family(
    model_type="opt",
    layers="model.decoder.layers",
    sites=sites,
    resized=resized,
    stock_config=stock_with_implied_head_dim(OPTConfig),
    pruned={ATTENTION: "heads", FFN: "channels of fc1 and fc2"},
    packs=False,  # its causal mask does not look at positions
)
