"""The configuration of a smaller model of a detected family: the stock one, and by layer what is no more as it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING

import slimgpt.modeling_by_path as modeling
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.sites import Kept


def config_by_path(checkpoint: Checkpoint, kept: Sequence[Mapping[str, Kept]], dtype: torch.dtype) -> Any:
    """Its configuration; ``kept`` is by layer, by part."""
    own_sizes = checkpoint.family.own_sizes
    assert own_sizes is not None
    stock = CONFIG_MAPPING[checkpoint.family.model_type]
    modeling.register_type(stock)
    settings = copy.deepcopy(checkpoint.config.to_dict())
    for key in ("model_type", "architectures", "auto_map", modeling.LAYERS, "transformers_version"):
        settings.pop(key, None)
    settings["dtype"] = str(dtype).removeprefix("torch.")
    config = modeling.slim_config(stock)(**{key: value for key, value in settings.items() if not key.startswith("_")})
    layers = [own_sizes(checkpoint.layer_config(index), of_layer) for index, of_layer in enumerate(kept)]
    setattr(config, modeling.LAYERS, {"path": checkpoint.family.layers, "layers": layers})
    module, models = Path(str(modeling.__file__)).stem, modeling.models_of(stock)
    config.auto_map = {auto: f"{module}.{modeling.slim_name(one, stock)}" for auto, one in models.items()}
    config.auto_map["AutoConfig"] = f"{module}.{type(config).__name__}"
    config.architectures = [slim_name(checkpoint.skeleton, stock)]
    return config


def slim_name(model: Any, stock_config: Any) -> str:
    """What the class of a smaller model is called; of one that is ours already, as it is."""
    kind = type(model)
    return kind.__name__ if kind.__module__ == modeling.__name__ else modeling.slim_name(kind, stock_config)


def state_sizes_(checkpoint: Checkpoint, layer: nn.Module, index: int | None, kept: Mapping[str, Kept]) -> None:
    """What else than tensors changes in a layer of a detected family when some of its parts keep ``kept``."""
    own_sizes = checkpoint.family.own_sizes
    if own_sizes is not None and index is not None:
        modeling.state_sizes_(layer, own_sizes(checkpoint.layer_config(index), kept))
