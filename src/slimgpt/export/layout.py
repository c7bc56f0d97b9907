"""Are the layers of one size, and which stock class holds them?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.inspection import layer_sizes
from slimgpt.model.pruned_config import stock_config
from slimgpt.sites import Kept


def is_uniform(checkpoint: Checkpoint) -> bool:
    """Every layer has as many heads and FFN channels as the first."""
    first = layer_sizes(checkpoint, 0)
    return all(layer_sizes(checkpoint, index) == first for index in range(1, len(checkpoint.layers)))


def widest_units(checkpoint: Checkpoint) -> dict[str, Kept]:
    """The most units that any layer has of each part, and the most members (query heads) of a unit."""
    sites = [site for index in range(len(checkpoint.layers)) for site in checkpoint.sites(index)]
    parts = {site.part: [each for each in sites if each.part == site.part] for site in sites}
    return {part: Kept(max(s.num_units for s in alike), max(s.members for s in alike)) for part, alike in parts.items()}


def widest_config(checkpoint: Checkpoint) -> Any:
    """A stock configuration in which every layer is as wide as the widest.

    Raises:
        ConfigError: no stock class can hold these sizes.
    """
    sizes = checkpoint.family.resized(checkpoint.layer_config(0), widest_units(checkpoint))
    return stock_config(checkpoint, sizes, checkpoint.dtype)


def describe(checkpoint: Checkpoint) -> tuple[str, ...]:
    """For people: uniform or not, and what loads it or which exports do."""
    if not is_uniform(checkpoint):
        return (f"Not uniform: {_spread(checkpoint)}.", "Exports that fit: --format gguf, --format padded.")
    found = f"Uniform: all {len(checkpoint.layers)} layers have {_named(layer_sizes(checkpoint, 0))}."
    try:
        config = widest_config(checkpoint)
    except ConfigError as error:
        return found, f"No stock class holds it: {error}"
    if type(config) is type(checkpoint.config):
        return found, f"It loads as {config.architectures[0]}, without remote code."
    return found, f"It fits {config.architectures[0]}: --format padded writes it as that, with nothing to pad."


def _spread(checkpoint: Checkpoint) -> str:
    layers = [layer_sizes(checkpoint, index) for index in range(len(checkpoint.layers))]
    spans = {key: (min(sizes[key] for sizes in layers), max(sizes[key] for sizes in layers)) for key in layers[0]}
    return ", ".join(f"{key} from {least:,} to {most:,}" for key, (least, most) in spans.items() if least < most)


def _named(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in sizes.items())
