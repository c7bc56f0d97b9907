"""Are the layers of one size, and which stock class holds the widest?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.inspection import layer_sizes
from slimgpt.model.pruned_config import stock_config
from slimgpt.sites import ATTENTION, Kept


def is_uniform(checkpoint: Checkpoint) -> bool:
    """Every layer has as many heads and FFN channels as the first, and no block is gone."""
    first = layer_sizes(checkpoint, 0)
    others = (layer_sizes(checkpoint, index) for index in range(1, len(checkpoint.layers)))
    return "skip" not in first and all(sizes == first for sizes in others)


def widest_units(checkpoint: Checkpoint) -> dict[str, Kept]:
    """The most units that any layer has of each part, and the most members (query heads) of a unit; of a part that is
    gone from all layers, what the first had.
    """
    sites = [site for index in range(len(checkpoint.layers)) for site in checkpoint.sites(index)]
    here = {site.part for site in sites}
    sites += [site for site in checkpoint.family.sites(checkpoint.layer_config(0)) if site.part not in here]
    parts = {site.part: [each for each in sites if each.part == site.part] for site in sites}
    return {part: Kept(max(s.num_units for s in alike), max(s.members for s in alike)) for part, alike in parts.items()}


def heads_before(checkpoint: Checkpoint) -> dict[str, Kept]:
    """Units of attention, and members of each, of the model before it was pruned: config.json still says them."""
    whole = copy.copy(checkpoint.config)
    whole.per_layer_config = None
    return {s.part: Kept(s.num_units, s.members) for s in checkpoint.family.sites(whole) if s.part == ATTENTION}


def widest_config(checkpoint: Checkpoint) -> Any:
    """A stock configuration in which every layer is as wide as the widest, or has all heads that the model ever had,
    where no stock class takes fewer.

    Raises:
        ConfigError: no stock class can hold these sizes.
    """
    units = widest_units(checkpoint)
    try:
        return config_of(checkpoint, units)
    except ConfigError:
        return config_of(checkpoint, {**units, **heads_before(checkpoint)})


def config_of(checkpoint: Checkpoint, units: Mapping[str, Kept]) -> Any:
    """A stock configuration in which every layer has ``units`` in its parts.

    Raises:
        ConfigError: no stock class can hold these sizes.
    """
    return stock_config(checkpoint, checkpoint.family.resized(checkpoint.layer_config(0), units), checkpoint.dtype)
