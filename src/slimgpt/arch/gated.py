"""The Llama shape that most families share: q/k/v/o attention with grouped queries, and a gated FFN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from slimgpt.arch.family import Family, head_dim, stock
from slimgpt.sites import ATTENTION, FFN, Kept, Segment, Site

PRUNED = {
    ATTENTION: "KV groups (a KV head with its query heads), and query heads, as many from every group",
    FFN: "channels of gate, up and down",
}


def sites(config: Any) -> tuple[Site, ...]:
    """Attention, then FFN."""
    return attention(config), ffn("mlp", config.intermediate_size)


def attention(config: Any) -> Site:
    """A KV head goes with all its query heads, or every group loses as many of them: ``repeat_kv`` pairs query head i
    with KV head i // queries per group, and must still pair every survivor correctly.
    """
    group_width = queries_per_group(config) * head_dim(config)
    return Site(
        name=ATTENTION,
        block="self_attn",
        consumer="self_attn.o_proj",
        producers=(
            Segment("self_attn.q_proj", group_width, by_member=True),
            Segment("self_attn.k_proj", head_dim(config)),
            Segment("self_attn.v_proj", head_dim(config)),
        ),
        num_units=config.num_key_value_heads,
        unit_width=group_width,
        members=queries_per_group(config),
        returns_tuple=True,
        unit="KV group" if queries_per_group(config) > 1 else "head",
        cache_values=2 * head_dim(config),
    )


def ffn(path: str, width: int) -> Site:
    """Single channels of the gated FFN at ``path``."""
    return Site(
        name=FFN,
        block=path,
        consumer=f"{path}.down_proj",
        producers=(Segment(f"{path}.gate_proj", 1), Segment(f"{path}.up_proj", 1)),
        num_units=width,
        unit_width=1,
    )


def queries_per_group(config: Any) -> int:
    """Query heads that share a KV head."""
    return config.num_attention_heads // config.num_key_value_heads


def heads(config: Any, kept: Mapping[str, Kept]) -> dict[str, int]:
    """Head counts when ``kept`` KV groups survive, with all or some of their query heads."""
    units, members = kept[ATTENTION]
    queries = queries_per_group(config) if members is None else members
    return {"num_attention_heads": units * queries, "num_key_value_heads": units}


def resized(config: Any, kept: Mapping[str, Kept]) -> dict[str, int]:
    """The layer's head counts and FFN width in upstream's names."""
    return {**heads(config, kept), "intermediate_size": kept[FFN].units}


def family(model_type: str, stock_config: Callable[[Mapping[str, Any]], Any]) -> Family:
    """A family of this shape."""
    return Family(model_type, "model.layers", sites, resized, stock_config, PRUNED)


def stock_family(model_type: str, config_class: type) -> Family:
    """A family of this shape whose own configuration class takes any number of heads (or says that it does not)."""
    return family(model_type, stock(config_class))
