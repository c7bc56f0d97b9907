"""What a model consists of: family, sizes by layer, parameters by part."""

from __future__ import annotations

from collections import Counter
from typing import Any

from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.pruned_config import resized_layer
from slimgpt.sites import Kept


def inspect_model(model: str) -> dict[str, Any]:
    """Describe a model (folder, hub id or GGUF file), dense or pruned, as plain data.

    Raises:
        ModelError: the model cannot be read, or its family is not supported.
    """
    checkpoint = open_checkpoint(model)
    return {
        "model": model,
        "family": checkpoint.config.model_type,
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "hidden_size": checkpoint.width,
        "layers": [_layer(checkpoint, index) for index in range(len(checkpoint.layers))],
        "parameters": _parts(checkpoint),
    }


def _layer(checkpoint: Checkpoint, index: int) -> dict[str, Any]:
    count = sum(parameter.numel() for parameter in checkpoint.layers[index].parameters())
    return {**layer_sizes(checkpoint, index), "parameters": count}


def layer_sizes(checkpoint: Checkpoint, index: int) -> dict[str, Any]:
    """A layer's head counts and FFN width in upstream's names, and which blocks it has lost."""
    return resized_layer(checkpoint, index, {site.part: Kept(site.num_units) for site in checkpoint.sites(index)})


def _parts(checkpoint: Checkpoint) -> dict[str, int]:
    """Parameters by part; whatever is outside the layers goes by the name of its module."""
    parts: Counter[str] = Counter()
    for index, layer in enumerate(checkpoint.layers):
        for site in checkpoint.sites(index):
            paths = {site.consumer, *(segment.path for segment in site.producers)}
            parts[site.part] += sum(p.numel() for path in paths for p in layer.get_submodule(path).parameters())
        parts["norms and others"] += sum(parameter.numel() for parameter in layer.parameters())
    parts["norms and others"] -= sum(count for part, count in parts.items() if part != "norms and others")
    for name in checkpoint.other_names():
        parts[name.rsplit(".", 1)[0].rsplit(".", 1)[-1]] += checkpoint.skeleton.get_parameter(name).numel()
    return {**parts, "total": checkpoint.num_params}
