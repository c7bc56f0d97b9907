"""Random models of every family, a few ten thousand parameters each, and what a test has to know of them by itself.

Nothing here comes from ``slimgpt.arch``: module paths and parameter counts are stated again, so that a slip in a family
file shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_llama import make_tokenizer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 64, 3, 8, 4, 8, 112
QUERIES = HEADS // KV_HEADS
WINDOW = 12  # narrower than the tests' sequences, so that sliding windows bite

GQA = {
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
}
MHA = {key: value for key, value in GQA.items() if key != "num_key_value_heads"}
QWEN_MOE = {**GQA, "moe_intermediate_size": 80, "num_experts": 4, "num_experts_per_tok": 2}
GQA_UNIT = (QUERIES * 2 + 2) * HEAD_DIM * HIDDEN  # rows of q, k and v, columns of o
MHA_UNIT = 4 * HEAD_DIM * HIDDEN
QUERY = 2 * HEAD_DIM * HIDDEN  # rows of q, columns of o
GATED_CHANNEL = 3 * HIDDEN
PLAIN_CHANNEL = 2 * HIDDEN
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True)
class Tiny:
    """One random model.

    Attributes:
        config: name of the stock configuration class.
        settings: what it is made with, beside vocabulary and tokens.
        params: parameters of one attention unit and of one FFN channel, by hand.
        layers: path of the decoder layers.
        attention: path in a layer of the projection that reads the heads.
        ffn: path in a layer of the projection that reads the FFN channels.
        unit_width: columns of ``attention`` that one unit owns.
        query: parameters of one query head by hand; 0 where it has keys of its own.
        uniform: the stock class of a uniform output; None where no stock class can hold fewer heads.
        sdpa: transformers has an SDPA version.
        experts: of every layer; then ``ffn`` is the path of the module that holds them all.
    """

    config: str
    settings: Mapping[str, Any]
    params: tuple[int, int] = (GQA_UNIT, GATED_CHANNEL)
    layers: str = "model.layers"
    attention: str = "self_attn.o_proj"
    ffn: str = "mlp.down_proj"
    unit_width: int = QUERIES * HEAD_DIM
    query: int = QUERY
    uniform: str | None = field(default=None)
    sdpa: bool = True
    experts: int = 0


MODELS = {
    "llama": Tiny("LlamaConfig", {**GQA, "tie_word_embeddings": True}, uniform="MistralForCausalLM"),
    "llama-multi-head": Tiny(
        "LlamaConfig",
        {
            **MHA,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
        params=(MHA_UNIT + 3 * HEAD_DIM, GATED_CHANNEL + 2),
        unit_width=HEAD_DIM,
        query=0,
    ),
    "mistral": Tiny("MistralConfig", {**GQA, "sliding_window": WINDOW}, uniform="MistralForCausalLM"),
    "qwen2": Tiny(
        "Qwen2Config",
        {**GQA, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        params=(GQA_UNIT + (QUERIES + 2) * HEAD_DIM, GATED_CHANNEL),
        query=QUERY + HEAD_DIM,
        uniform="Qwen2ForCausalLM",
    ),
    "qwen3": Tiny(
        "Qwen3Config",
        {**GQA, "head_dim": 16},
        params=(2 * GQA_UNIT, GATED_CHANNEL),
        unit_width=QUERIES * 16,
        query=2 * QUERY,
        uniform="Qwen3ForCausalLM",
    ),
    "gemma": Tiny("GemmaConfig", {**GQA, "head_dim": HEAD_DIM}, uniform="GemmaForCausalLM"),
    "gemma2": Tiny(
        "Gemma2Config",
        {
            **GQA,
            "head_dim": HEAD_DIM,
            "query_pre_attn_scalar": 24,
            "sliding_window": WINDOW,
            "layer_types": ALTERNATING,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
        sdpa=False,
    ),
    "gemma3_text": Tiny(
        "Gemma3TextConfig",
        {
            **GQA,
            "head_dim": HEAD_DIM,
            "query_pre_attn_scalar": 24,
            "sliding_window": WINDOW,
            "layer_types": ALTERNATING,
        },
    ),
    "phi3": Tiny("Phi3Config", {**GQA, "sliding_window": WINDOW}, uniform="Phi3ForCausalLM"),
    "gpt2": Tiny(
        "GPT2Config",
        {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": FFN, "scale_attn_by_inverse_layer_idx": True},
        params=(MHA_UNIT + 3 * HEAD_DIM, PLAIN_CHANNEL + 1),
        layers="transformer.h",
        attention="attn.c_proj",
        ffn="mlp.c_proj",
        unit_width=HEAD_DIM,
        query=0,
    ),
    "opt": Tiny(
        "OPTConfig",
        {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "ffn_dim": FFN,
            "word_embed_proj_dim": 40,
        },
        params=(MHA_UNIT + 3 * HEAD_DIM, PLAIN_CHANNEL + 1),
        layers="model.decoder.layers",
        attention="self_attn.out_proj",
        ffn="fc2",
        unit_width=HEAD_DIM,
        query=0,
    ),
    "gpt_neox": Tiny(
        "GPTNeoXConfig",
        {**MHA, "rotary_pct": 0.5},
        params=(MHA_UNIT + 3 * HEAD_DIM, PLAIN_CHANNEL + 1),
        layers="gpt_neox.layers",
        attention="attention.dense",
        ffn="mlp.dense_4h_to_h",
        unit_width=HEAD_DIM,
        query=0,
    ),
    "mixtral": Tiny(
        "MixtralConfig",
        {**GQA, "num_local_experts": 3, "num_experts_per_tok": 2},
        ffn="mlp.experts",
        uniform="MixtralForCausalLM",
        experts=3,
    ),
    "qwen2_moe": Tiny(
        "Qwen2MoeConfig",
        {**QWEN_MOE, "shared_expert_intermediate_size": 48},
        params=(GQA_UNIT + (QUERIES + 2) * HEAD_DIM, GATED_CHANNEL),
        query=QUERY + HEAD_DIM,
        ffn="mlp.experts",
        uniform="Qwen2MoeForCausalLM",
        experts=4,
    ),
    "qwen3_moe": Tiny(
        "Qwen3MoeConfig",
        {**QWEN_MOE, "head_dim": 16, "norm_topk_prob": True},
        params=(2 * GQA_UNIT, GATED_CHANNEL),
        ffn="mlp.experts",
        unit_width=QUERIES * 16,
        query=2 * QUERY,
        uniform="Qwen3MoeForCausalLM",
        experts=4,
    ),
}


ORIGINAL = 32  # tokens that the models with scaled rotary embeddings were made for, before scaling
ROPES = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": ORIGINAL},
    "longrope": {"factor": 2.0, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "proportional": {"partial_rotary_factor": 0.5},
}
PARTIAL = {"gpt_neox": 0.5, "phi3": 0.75}
"""Families that may turn a part of each head only -> the part in these models."""


def with_rope(name: str, kind: str) -> Tiny:
    """The same model with scaled rotary embeddings; Gemma 3 scales those of its layers without a window."""
    settings, part = MODELS[name].settings, PARTIAL.get(name)
    head_dim = settings.get("head_dim", HEAD_DIM)
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, **ROPES[kind]}
    if part:
        rope["partial_rotary_factor"] = part
    if kind == "longrope":
        pairs = range(int(head_dim * (part or 1)) // 2)
        rope |= {"short_factor": [1 + pair / 8 for pair in pairs], "long_factor": [2.0 + pair for pair in pairs]}
    if name == "gemma3_text":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}}
    more = {
        "dynamic": {"max_position_embeddings": ORIGINAL},
        "phi3": {"original_max_position_embeddings": ORIGINAL},
        "mixtral": {"head_dim": head_dim},  # without it the stock class fails
    }
    more = {**more.get(kind, {}), **more.get(name, {})}
    return replace(MODELS[name], settings={**settings, **more, "rope_parameters": rope})


ALL_ROPES = {"llama": list(ROPES), "phi3": ["longrope"]}
ROPE_FAMILIES = [name for name in MODELS if name not in ("gpt2", "opt", "llama-multi-head")]
SCALED = {
    f"{name}-{kind}": with_rope(name, kind)
    for name in ROPE_FAMILIES
    for kind in ALL_ROPES.get(name, ["dynamic", "yarn", "longrope"])
}
"""Every family that has rotary embeddings with the types of them that read the configuration at run time (all types:
Llama), where its class takes them."""


def tiny_of(name: str) -> Tiny:
    """A model of ``MODELS`` or ``SCALED``."""
    return SCALED[name] if name in SCALED else MODELS[name]


def make_model(name: str, seed: int = 0) -> Any:
    """The random model; biases and norms are random too, or mistakes in them would not show."""
    tiny = tiny_of(name)
    torch.manual_seed(seed)
    common = {"vocab_size": 260, "max_position_embeddings": 64}
    special = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 0}
    config = getattr(transformers, tiny.config)(**{**common, **special, **tiny.settings})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and parameter_name.endswith("weight")
            parameter.copy_(0.15 * torch.randn(parameter.shape) + is_norm)
    return model


def save_model(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    """A complete checkpoint folder."""
    make_model(name).to(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def consumer(name: str, model: nn.Module, layer: int, site: str) -> nn.Module:
    """The projection that loses columns at a site, or the module of all experts."""
    tiny = tiny_of(name)
    return model.get_submodule(f"{tiny.layers}.{layer}.{tiny.attention if site == 'attention' else tiny.ffn}")


def consumer_weight(name: str, model: nn.Module, layer: int, site: str) -> Tensor:
    """Its weight, outputs x inputs; writing to it writes to the model."""
    module = consumer(name, model, layer, site)
    if "." in site:
        return module.down_proj.data[int(site.partition(".")[2])]
    return module.weight.data.T if isinstance(module, Conv1D) else module.weight.data


def piece_width(name: str, site: str) -> int:
    """Columns of the smallest piece that may go: a query head or an FFN channel."""
    tiny = tiny_of(name)
    return 1 if site != "attention" else tiny.unit_width // (QUERIES if tiny.query else 1)


@torch.no_grad()
def consumer_inputs(name: str, model: nn.Module, windows_BT: Tensor) -> dict[tuple[int, str], Tensor]:
    """What enters every consumer, tokens x inputs."""
    seen: dict[tuple[int, str], Tensor] = {}

    def watch(layer: int, site: str) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if site == "ffn" and tiny_of(name).experts:
                seen.update({(layer, f"ffn.{e}"): x_TI for e, x_TI in enumerate(expert_inputs(module, *args))})
            else:
                seen[layer, site] = args[0].flatten(0, -2)

        return consumer(name, model, layer, site).register_forward_pre_hook(keep)

    handles = [watch(layer, site) for layer in range(LAYERS) for site in ("attention", "ffn")]
    model(input_ids=windows_BT)
    for handle in handles:
        handle.remove()
    return seen


def expert_inputs(experts: nn.Module, x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> list[Tensor]:
    """What enters the down projection of each expert: act(gate) · up of the tokens that are routed to it."""
    inputs = []
    for number, gate_up in enumerate(experts.gate_up_proj):
        gate, up = (x_TD[(expert_TK == number).any(1)] @ gate_up.T).chunk(2, dim=-1)
        inputs.append(torch.nn.functional.silu(gate) * up)
    return inputs
