"""The configuration of a smaller model: sizes by layer, or one size in a stock class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import slimgpt.modeling_slimgpt as modeling
from slimgpt.arch.family import head_dim
from slimgpt.model.checkpoint import Checkpoint, skipped
from slimgpt.model.config_by_path import config_by_path
from slimgpt.sites import Kept


def pruned_config(
    checkpoint: Checkpoint,
    kept: Sequence[Mapping[str, Kept]],
    layout: str,
    dtype: torch.dtype,
    beside: Mapping[str, Kept] | None = None,
) -> Any:
    """Configuration of the smaller model, in the per-layer or a stock class.

    ``kept`` is by layer, by part; ``beside`` by part, of the model behind its layers.

    Raises:
        ConfigError: no stock class can hold the uniform sizes.
    """
    if layout != "uniform" and not checkpoint.family.tested:
        return config_by_path(checkpoint, kept, dtype)
    resized = resized_layers(checkpoint, kept)
    whole = checkpoint.family.resized_beside(checkpoint.config, beside or {})
    if layout == "uniform":
        return stock_config(
            checkpoint, {**whole, **{key: size for sizes in resized for key, size in sizes.items()}}, dtype
        )
    classes = modeling.slim_classes(checkpoint.family.model_type)
    per_layer = {str(index): sizes for index, sizes in enumerate(resized)}
    config: Any = classes.config(**{**_global_settings(checkpoint, dtype), **whole}, per_layer_config=per_layer)
    module = Path(modeling.__file__).stem
    config.auto_map = {auto: f"{module}.{model.__name__}" for auto, model in classes.models.items()}
    config.architectures = [classes.models["AutoModelForCausalLM"].__name__]
    return config


def resized_layers(checkpoint: Checkpoint, kept: Sequence[Mapping[str, Kept]]) -> list[dict[str, Any]]:
    """What each layer's configuration says otherwise than the dense model's, in upstream's names.

    Blocks that keep nothing are named under ``skip``; their sizes are those that they had.
    """
    return [resized_layer(checkpoint, index, of_layer) for index, of_layer in enumerate(kept)]


def resized_layer(checkpoint: Checkpoint, index: int, kept: Mapping[str, Kept]) -> dict[str, Any]:
    """The same of one layer."""
    config = checkpoint.layer_config(index)
    sizes = {site.part: Kept(site.num_units) for site in checkpoint.family.sites(config)}
    gone = {*skipped(config), *(part for part, value in kept.items() if value.units == 0)}
    sizes |= {part: value for part, value in kept.items() if part not in gone}
    resized = checkpoint.family.resized(config, sizes)
    return {**resized, "skip": sorted(gone)} if gone else resized


def stock_config(checkpoint: Checkpoint, sizes: Mapping[str, int], dtype: torch.dtype) -> Any:
    """Configuration of a stock class in which every layer has the given ``sizes`` (upstream's keys).

    Raises:
        ConfigError: no stock class can hold them.
    """
    config = checkpoint.family.stock_config({**_global_settings(checkpoint, dtype), **sizes})
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # transformers' own annotations would have it a pair
    config.architectures = [model_class.__name__]
    return config


def _global_settings(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
    """A configuration's keys without those that say which class it is or how layers differ."""
    settings = dict(checkpoint.config.to_dict())
    for key in ("model_type", "architectures", "auto_map", "per_layer_config", "transformers_version"):
        settings.pop(key, None)
    settings["dtype"] = str(dtype).removeprefix("torch.")
    settings["head_dim"] = head_dim(checkpoint.config)  # stock code would derive it from the number of heads
    return {key: value for key, value in settings.items() if not key.startswith("_")}
