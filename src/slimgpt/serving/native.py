"""Which of vLLM's own model classes compute what a family does, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Native(NamedTuple):
    """A model class of vLLM.

    Attributes:
        module: where it is, in ``vllm.model_executor.models``.
        model: its name.
        layer: name of its decoder layers' class.
        layer_module: where that is.
        settings: what a layer's configuration has to say beside its sizes.
    """

    module: str
    model: str
    layer: str
    layer_module: str
    settings: Mapping[str, Any] = {}


LLAMA = Native("llama", "LlamaForCausalLM", "LlamaDecoderLayer", "llama")

NATIVE = {
    "llama": LLAMA,
    "mistral": Native("mistral", "MistralForCausalLM", "MistralDecoderLayer", "mistral"),
    "qwen2": LLAMA._replace(settings={"qkv_bias": True}),  # vLLM's own has no place for a head_dim
    "qwen3": Native("qwen3", "Qwen3ForCausalLM", "Qwen3DecoderLayer", "qwen3"),
    "qwen3_moe": Native("qwen3_moe", "Qwen3MoeForCausalLM", "Qwen3MoeDecoderLayer", "qwen3_moe"),
    "phi3": LLAMA._replace(module="phi3", model="Phi3ForCausalLM"),
    "mixtral": Native("mixtral", "MixtralForCausalLM", "MixtralDecoderLayer", "mixtral"),
}
"""By the stock model_type. The other families go through vLLM's Transformers back end."""
