"""Adapters (LoRA, https://arxiv.org/abs/2106.09685) on every projection that pruning touched, and their merging."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from pathlib import Path
from typing import Any

from slimgpt.config import RecoverConfig
from slimgpt.errors import ConfigError, ModelError
from slimgpt.model.checkpoint import Checkpoint


def require_peft() -> None:
    """Raise ConfigError where it is not installed. Only what uses it imports it: whoever trains nothing needs none."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("training needs peft: pip install 'slimgpt[recover]'.")


def version() -> str:
    """Of peft."""
    return importlib.metadata.version("peft")


def adapted_paths(checkpoint: Checkpoint) -> list[str]:
    """Module paths, inside a layer, of the consumers and producers of its sites (q, k, v, o, gate, up and down in
    most families): what gets an adapter.

    Raises:
        ModelError: the family runs its experts in fused tensors, which no adapter sits on.
    """
    sites = checkpoint.sites(0)
    found = [site.consumer for site in sites] + [segment.path for site in sites for segment in site.producers]
    if any(site.name != site.part for site in sites):  # several of a kind: experts
        raise ModelError(
            f"{checkpoint.source}: transformers runs the experts of {checkpoint.family.model_type} in fused tensors, "
            "which LoRA adapters do not reach. Use --full."
        )
    return sorted(dict.fromkeys(found))


def with_adapters(model: Any, checkpoint: Checkpoint, config: RecoverConfig) -> Any:
    """The model with fresh adapters (float32) over its frozen weights; their seed is torch's."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=adapted_paths(checkpoint),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # peft sees transposed projections and says so
        return get_peft_model(model, settings)


def merged(base: Any, adapter: Path) -> Any:
    """The base model in float32 with a saved adapter added to its weights."""
    from peft import PeftModel

    adapted: Any = PeftModel.from_pretrained(base.float(), adapter)
    return adapted.merge_and_unload().eval()
