"""What a model consists of: family, sizes by layer, parameters by part."""

from __future__ import annotations

from collections import Counter
from typing import Any

from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.pruned_config import resized_layer
from slimgpt.sites import Kept

TESTED, DETECTED = "a tested family", "detection: prune proves it on the weights before anything goes"


def inspect_model(model: str) -> dict[str, Any]:
    """Describe a model (folder, hub id or GGUF file), dense or pruned, as plain data.

    Raises:
        ModelError: the model cannot be read, or its family is not supported.
    """
    checkpoint = open_checkpoint(model)
    return {
        "model": model,
        "family": checkpoint.config.model_type,
        "known_by": TESTED if checkpoint.family.tested else DETECTED,
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "hidden_size": checkpoint.width,
        "stays_whole": staying(checkpoint),
        "layers": [_layer(checkpoint, index) for index in range(len(checkpoint.layers))],
        "parameters": _parts(checkpoint),
    }


def staying(checkpoint: Checkpoint) -> list[str]:
    """What cannot go in a model and why, a sentence each, with the number of layers where it is so."""
    layers = range(len(checkpoint.layers))
    found = [checkpoint.family.stays(checkpoint.layer_config(index)).items() for index in layers]
    count = Counter(f"{path} stays whole: {reason}" for of_layer in found for path, reason in of_layer)
    return [f"{text} ({times} of {len(found)} layers)." for text, times in count.items()]


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
