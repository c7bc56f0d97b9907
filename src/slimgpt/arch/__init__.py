"""Model families as data: ``FAMILIES`` is the one list of what slimgpt can prune.

Comes in: a model's configuration. Goes out: a family: where its layers are, and the sites of a layer.
"""

from __future__ import annotations

from typing import Any

from transformers.models.auto import modeling_auto as _first  # noqa: F401 - families' classes come to it half-made else

from slimgpt.arch.family import Family
from slimgpt.arch.gemma import GEMMA
from slimgpt.arch.gemma2 import GEMMA2
from slimgpt.arch.gemma3_text import GEMMA3_TEXT
from slimgpt.arch.gpt2 import GPT2
from slimgpt.arch.gpt_neox import GPT_NEOX
from slimgpt.arch.llama import LLAMA
from slimgpt.arch.mistral import MISTRAL
from slimgpt.arch.mixtral import MIXTRAL
from slimgpt.arch.opt import OPT
from slimgpt.arch.phi3 import PHI3
from slimgpt.arch.qwen2 import QWEN2
from slimgpt.arch.qwen3 import QWEN3
from slimgpt.arch.qwen_moe import QWEN2_MOE, QWEN3_MOE
from slimgpt.errors import ModelError, shown
from slimgpt.modeling_slimgpt import PREFIX

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3_TEXT,
    "phi3": PHI3,
    "gpt2": GPT2,
    "opt": OPT,
    "gpt_neox": GPT_NEOX,
    "mixtral": MIXTRAL,
    "qwen2_moe": QWEN2_MOE,
    "qwen3_moe": QWEN3_MOE,
}


def is_tested(model_type: str) -> bool:
    """A file here describes this type of model, stock or written by slimgpt."""
    return model_type.removeprefix(PREFIX) in FAMILIES


def family_of(config: Any) -> Family:
    """The tested family of a model configuration, stock or written by slimgpt.

    Raises:
        ModelError: there is none; the message lists those that there are.
    """
    if not is_tested(config.model_type):
        raise ModelError(
            f"model_type {shown(config.model_type)} is none of the tested families: {', '.join(sorted(FAMILIES))}. "
            "Leave out --families known to have its units proved instead; docs/add_a_family.md shows how to add a "
            "family."
        )
    return FAMILIES[config.model_type.removeprefix(PREFIX)]
