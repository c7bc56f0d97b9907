"""Teaches vLLM every family: the entry point ``vllm.general_plugins`` of ``pip install slimgpt[vllm]``.

vLLM calls :func:`register` in each of its processes, before it reads a configuration. Remote code is not needed then.
"""

from __future__ import annotations

from slimgpt.modeling_slimgpt import BASES, slim_name, stock_models
from slimgpt.modeling_slimgpt import register as teach_transformers
from slimgpt.serving.native import NATIVE

BACK_END = "vllm.model_executor.models.transformers"
EXPERTS = ("qwen2_moe",)


def register() -> None:
    """Per-layer models by vLLM's own classes where slimgpt knows how, else by its Transformers back end."""
    from vllm import ModelRegistry

    teach_transformers()
    for model_type in BASES:
        architecture = slim_name(stock_models(model_type)["AutoModelForCausalLM"])
        ModelRegistry.register_model(architecture, vllm_class(model_type, architecture))


def vllm_class(model_type: str, architecture: str) -> str:
    """Module and name of what loads a family; vLLM imports the module when it has to."""
    if model_type in NATIVE:
        return f"slimgpt.serving.vllm_models:{architecture}"
    return f"{BACK_END}:{'TransformersMoEForCausalLM' if model_type in EXPERTS else 'TransformersForCausalLM'}"
