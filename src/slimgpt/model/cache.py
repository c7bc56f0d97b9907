"""How much of a text a model's layers keep in the cache."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache

from slimgpt.model.checkpoint import Checkpoint


def windows(checkpoint: Checkpoint) -> dict[int | None, int]:
    """Tokens that the cache of a layer keeps at most, of the layers that have such a limit (sliding windows).

    transformers' own cache says so. It was asked for the tested families; of others nothing is said.
    """
    if not checkpoint.family.tested:
        return {}
    layers: Any = DynamicCache(config=checkpoint.config).layers
    return {index: layer.sliding_window for index, layer in enumerate(layers) if layer.is_sliding}
