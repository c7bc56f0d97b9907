"""Random mixtures of experts, and what their routers and experts do, written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_llama import make_tokenizer
from torch import Tensor, nn

EXPERTS, PER_TOKEN, LAYERS, HIDDEN = 8, 2, 3, 48

COMMON = {
    "vocab_size": 260,
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "num_experts_per_tok": PER_TOKEN,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
QWEN = {**COMMON, "moe_intermediate_size": 32, "num_experts": EXPERTS, "head_dim": 8}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {**COMMON, "num_local_experts": EXPERTS}),
    "qwen2_moe": ("Qwen2MoeConfig", {**QWEN, "shared_expert_intermediate_size": 24, "norm_topk_prob": False}),
    "qwen3_moe": ("Qwen3MoeConfig", {**QWEN, "norm_topk_prob": True}),
    "olmoe": ("OlmoeConfig", {**COMMON, "num_experts": EXPERTS}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **COMMON,
            "num_key_value_heads": 6,
            "moe_intermediate_size": 32,
            "n_routed_experts": EXPERTS,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
}


def make_mixture(kind: str, seed: int = 0, **changes: Any) -> Any:
    """The random model; its experts are of different sizes, and its router is decided."""
    name, settings = KINDS[kind]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**settings, **changes})).eval()
    with torch.no_grad():
        for path, parameter in [*model.named_parameters(), *model.named_buffers()]:
            if parameter.dim() == 3:
                parameter.copy_(torch.randn(parameter.shape) * torch.linspace(0.05, 0.3, len(parameter))[:, None, None])
            elif parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape) * (0.4 if "gate.weight" in path else 0.15))
            elif "bias" in path:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model


def save_mixture(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, shards: str = "1GB", **changes: Any
) -> Path:
    """A complete checkpoint folder, with one tensor an expert where the type's files have that."""
    make_mixture(kind, **changes).to(dtype).save_pretrained(folder, max_shard_size=shards)
    make_tokenizer().save_pretrained(folder)
    return folder


def blocks_of(model: Any) -> list[tuple[int, Any]]:
    """Layers with experts, and the modules around those."""
    return [(index, layer.mlp) for index, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "experts")]


def softmax_routing(block: Any, x_TD: Tensor, gone: Sequence[int], renormalised: bool) -> tuple[Tensor, Tensor]:
    """What Mixtral and Qwen do, with some experts masked out: T x K experts, and their gates."""
    logits_TE = x_TD @ block.gate.weight.T
    logits_TE[:, list(gone)] = -torch.inf
    gate_TK, expert_TK = logits_TE.float().softmax(-1).topk(PER_TOKEN, dim=-1)
    return expert_TK, gate_TK / gate_TK.sum(-1, keepdim=True) if renormalised else gate_TK


def expert_output(experts: nn.Module, number: int, x_TD: Tensor) -> Tensor:
    """down(silu(gate) · up) of one expert."""
    gate, up = (x_TD @ experts.gate_up_proj[number].T).chunk(2, dim=-1)
    return (nn.functional.silu(gate) * up) @ experts.down_proj[number].T


class Masked(nn.Module):
    """A block whose router cannot choose some experts, written out."""

    def __init__(self, block: Any, gone: Sequence[int], renormalised: bool) -> None:
        super().__init__()
        self.block, self.gone, self.renormalised = block, gone, renormalised

    def forward(self, hidden: Tensor) -> Tensor:
        x_TD = hidden.flatten(0, -2)
        expert_TK, gate_TK = softmax_routing(self.block, x_TD, self.gone, self.renormalised)
        sum_TD = torch.zeros_like(x_TD)
        for number in range(EXPERTS):
            weight_T = (gate_TK * (expert_TK == number)).sum(-1)
            sum_TD += weight_T[:, None] * expert_output(self.block.experts, number, x_TD)
        if hasattr(self.block, "shared_expert"):
            sum_TD += self.block.shared_expert_gate(x_TD).sigmoid() * self.block.shared_expert(x_TD)
        return sum_TD.view_as(hidden)
