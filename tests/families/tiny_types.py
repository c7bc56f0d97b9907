"""A random model of a few ten thousand parameters for every model type of transformers that writes text.

Its configuration is the type's own default, shrunk key by key: which layers there are, how they differ, how many query
heads share a key, and every switch stay as they are. What is said here by hand is said for tests alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TYPES = sorted(
    {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    }
)

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCABULARY = 64, 4, 8, 4, 8, 112, 260


def _each(value: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), value)


SIZES = {
    **_each(
        HIDDEN,
        "hidden_size d_model n_embd n_embed dim model_dim embed_dim emb_dim embedding_size word_embed_proj_dim "
        "projection_dim out_hidden_size text_embed_dim hidden_dim attention_hidden_size lru_width encoder_hidden_dim "
        "decoder_hidden_size cross_attention_hidden_size",
    ),
    **_each(
        HEADS,
        "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads "
        "num_attn_heads num_swa_attention_heads swa_num_attention_heads",
    ),
    **_each(
        KV_HEADS,
        "num_key_value_heads num_kv_heads n_head_kv multi_query_group_num num_global_key_value_heads "
        "swa_num_key_value_heads attention_kv_heads kv_n_heads",
    ),
    **_each(
        HEAD_DIM,
        "head_dim d_kv attention_head_dim kv_channels hybrid_head_dim global_head_dim swa_head_dim "
        "attention_kv_head_dim",
    ),
    **_each(
        WIDTH,
        "intermediate_size ffn_dim n_inner ffn_hidden_size d_ff decoder_ffn_dim encoder_ffn_dim inner_dim "
        "dense_intermediate_size mlp_intermediate_size intermediate_size_mlp block_ff_dim ffn_intermediate_size",
    ),
    **_each(80, "moe_intermediate_size expert_intermediate_size expert_ffn_hidden_size ffn_expert_hidden_size"),
    **_each(48, "shared_expert_intermediate_size moe_shared_expert_intermediate_size shared_intermediate_size"),
    **_each(
        LAYERS,
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers "
        "num_encoder_layers depth",
    ),
    **_each(4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    **_each(2, "num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k_experts experts_per_token"),
    **_each(1, "n_group topk_group num_expert_group expert_group_size"),
    **_each(128, "max_position_embeddings n_positions max_sequence_length max_seq_len n_ctx max_seq_length"),
    **_each(
        12,
        "sliding_window attention_window_size sliding_window_size window_size attention_chunk_size local_attention "
        "window",
    ),
    **_each(24, "q_lora_rank"),
    **_each(16, "kv_lora_rank o_lora_rank qk_head_dim index_head_dim"),
    **_each(8, "qk_nope_head_dim qk_rope_head_dim v_head_dim"),
    **_each(16, "mamba_d_state state_size ssm_state_size mamba_chunk_size chunk_size"),
    **_each(8, "mamba_n_heads mamba_num_heads mamba_dt_rank time_step_rank"),
    **_each(16, "mamba_d_head mamba_head_dim mamba_headdim"),
    **_each(2, "mamba_n_groups n_groups mamba_ngroups n_mamba_heads"),
    **_each(128, "mamba_d_ssm"),
    **_each(4, "linear_num_key_heads"),
    **_each(8, "linear_num_value_heads linear_key_head_dim linear_value_head_dim"),
    **_each(
        VOCABULARY,
        "vocab_size text_vocab_size padded_vocab_size vocab_size_per_layer_input audio_vocab_size "
        "audio_token_vocab_size",
    ),
    **_each(16, "hidden_size_per_layer_input"),
    **_each(2, "num_codebooks"),
    **_each(8, "laurel_rank index_topk"),
    **_each(4, "index_n_heads"),
}
KV_KEYS = {name for name, size in SIZES.items() if size == KV_HEADS and any(part in name for part in ("kv", "key_v"))}
VISION = {
    "hidden_size": 32,
    "embed_dim": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "depth": 2,
    "num_layers": 2,
    "num_heads": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "image_size": 32,
    "patch_size": 16,
    "out_hidden_size": HIDDEN,
    "head_dim": 8,
}
TOKENS = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 0, "decoder_start_token_id": 256}
SKIPPED = {"model_type", "transformers_version", "architectures", "dtype", "_name_or_path", "auto_map"}
TEXT = ("text", "decoder", "llm", "language", "thinker")


def shrunk(settings: Mapping[str, Any], text: bool = True) -> dict[str, Any]:
    """Settings of a small model from those of a large one."""
    small: dict[str, Any] = {}
    layers = next((settings[key] for key in ("num_hidden_layers", "n_layer", "n_layers") if settings.get(key)), None)
    for key, value in settings.items():
        if key in SKIPPED or value is None or isinstance(value, bool):
            continue
        if isinstance(value, dict) and "model_type" in value:
            small[key] = {**shrunk(value, any(name in key for name in TEXT)), "model_type": value["model_type"]}
        elif key in TOKENS or key.endswith(("_token_id", "_token_index")):
            small[key] = _token(key, value)
        elif not text and key in VISION and isinstance(value, int):
            small[key] = VISION[key]
        elif key in SIZES:
            small[key] = _size(key, value, settings, layers)
        elif isinstance(value, list) and len(value) == layers:
            small[key] = first_of_each_kind(value, LAYERS if text else VISION["num_hidden_layers"])
        elif key in ("rope_parameters", "rope_scaling"):
            small[key] = _rope(value)
    return {key: value for key, value in small.items() if value is not None}


def _token(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [TOKENS.get(key, 1)]
    spare = 200 + sum(ord(letter) * (place + 1) for place, letter in enumerate(key)) % 50
    return TOKENS.get(key, spare) if value >= 0 else value


def _size(key: str, value: Any, settings: Mapping[str, Any], layers: int | None) -> Any:
    if isinstance(value, list):
        return [SIZES[key] if isinstance(one, int) else one for one in value[:LAYERS]] if len(value) == layers else None
    if key in KV_KEYS:
        heads = next(
            (settings[name] for name in ("num_attention_heads", "n_head", "num_heads") if name in settings), None
        )
        return HEADS if value == heads or settings.get("kv_lora_rank") else (1 if value == 1 else KV_HEADS)
    return SIZES[key] if isinstance(value, int) else value


def _rope(value: Any) -> Any:
    value = copy.deepcopy(value)
    for one in (value, *(inner for inner in value.values() if isinstance(inner, dict))):
        if "original_max_position_embeddings" in one:
            one["original_max_position_embeddings"] = 64
        if "mrope_section" in one:
            one["mrope_section"] = [2, 1, 1] if len(one["mrope_section"]) == 3 else one["mrope_section"]
    return value


def first_of_each_kind(values: list[Any], count: int) -> list[Any]:
    """Of a list by layer: every kind that there is, as far as they go into ``count``, in the order of the layers."""
    kinds = list(dict.fromkeys(map(str, values)))
    firsts = sorted([[str(value) for value in values].index(kind) for kind in kinds][:count])
    more = [index for index in range(len(values)) if index not in firsts][: count - len(firsts)]
    return [values[index] for index in sorted(firsts + more)]


def tiny_config(model_type: str) -> Any:
    """The small configuration of a type."""
    kind = CONFIG_MAPPING[model_type]
    settings = shrunk(kind().to_dict())
    _update(settings, SPECIAL.get(model_type, {}))
    return kind(**settings)


def _update(settings: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(settings.get(key), dict) and not key.startswith("rope"):
            _update(settings[key], value)
        elif value is None:
            settings.pop(key, None)
        else:
            settings[key] = value


def _rotary(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, **more}


_THREE = {"rope_parameters": _rotary(mrope_section=[2, 1, 1])}
_THREE_OF_HALF = {"rope_parameters": _rotary(mrope_section=[1, 1, 0], partial_rotary_factor=0.5)}
_EXPERTS = {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
_QWEN4 = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "hc_lowrank": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
_MAMBA = ["linear_attention", "hybrid", "linear_attention", "hybrid"]

SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3], "layer_types": None, "layers_block_type": None},
    "chameleon": {"vocabulary_map": {"<image>": 5, "IMGIMGA": 6}},
    "codegen": {"rotary_dim": 4},
    "cohere_compass": {
        "text_config": {"rope_parameters": {"full_attention": _rotary()}, "layer_types": ["full_attention"] * 4}
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": _rotary()}, "layer_types": ["full_attention"] * 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 4, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": WIDTH, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": HIDDEN},
    },
    "deepseek_ocr2": {"text_config": {**_EXPERTS, "mlp_layer_types": ["dense"] + ["sparse"] * 3}},
    "deepseek_v2": {**_EXPERTS, "first_k_dense_replace": 1, "topk_method": "greedy"},
    "deepseek_v3": {"first_k_dense_replace": 1},
    "dots1": {**_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": _rotary(mrope_section=[1, 1, 2])}},
    "fun_asr_nano": {"adaptor_config": {"hidden_size": HIDDEN, "intermediate_size": HIDDEN // 4}},
    "gemma3": {"mm_tokens_per_image": 4},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [WIDTH] * 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.5, 0.0],
    },
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "gemma4_text": {"num_kv_shared_layers": 2},
    "glm46v": {"text_config": _THREE},
    "glm4v": {"text_config": _THREE},
    "glm4v_moe": {"text_config": _THREE_OF_HALF},
    "glm5_next": {"text_config": {"index_topk": 16}},
    "glm_ocr": {"text_config": _THREE},
    "glmga": {"text_config": _THREE},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 4},
    "granite4_vision": {"deepstack_layer_map": [[0, 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": HEAD_DIM},
    "hunyuan_v1_moe": {"head_dim": HEAD_DIM, "num_experts": 4, "moe_topk": 2, "num_shared_expert": 1},
    "hunyuan_vl": {"text_config": {"head_dim": HEAD_DIM, "rope_parameters": _rotary(mrope_section=[1, 1, 1, 1])}},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "layer_types": None,
    },
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"], "num_dense_layers": 1},
    "llama4": {"text_config": {"no_rope_layers": [1, 1, 1, 0], "moe_layers": [1, 3]}},
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0], "moe_layers": [1, 3]},
    "mamba2": {"head_dim": 16},
    "ministral": {"head_dim": HEAD_DIM},
    "mistral4": {"head_dim": 2 * HEAD_DIM},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "nemotron": {"num_key_value_heads": KV_HEADS},
    "paddleocr_vl": {"text_config": _THREE},
    "qwen2_5_omni_thinker": {"text_config": _THREE},
    "qwen2_5_vl": {"text_config": _THREE, "vision_config": {"window_size": 32}},
    "qwen2_vl": {"text_config": _THREE},
    "qwen3_omni_moe_thinker": {"text_config": _THREE},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "reformer": {"is_decoder": True},
    "step3p7": {"text_config": {"sliding_window": 12}},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 16, "layers_block_type": _MAMBA},
    "zamba2": {
        "attention_hidden_size": 128,
        "attention_head_dim": 16,
        "n_mamba_heads": 8,
        "mamba_headdim": 16,
        "layers_block_type": _MAMBA,
        "hybrid_layer_ids": [1, 3],
        "adapter_rank": 16,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 32},
}
"""By type: what shrinking key by key gets wrong."""


@torch.no_grad()
def fill_(model: Any, seed: int = 0) -> None:
    """Random weights under which attention is not flat; norms around one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not any(part in name for part in ("A_log", "dt_bias")):
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator) + is_norm)
