"""Models that have lost whole blocks, whatever a search would find."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from slimgpt import PruneConfig, prune
from slimgpt.allocation.places import Key, whole
from slimgpt.sites import Kept


def prune_without(keys: list[Key], config: PruneConfig) -> Path:
    """The model with nothing gone but these blocks; ``config`` asks for a search that may take blocks."""
    stand_ins: dict[str, Any] = {
        "slimgpt.pruning.driver.find_allocation": lambda task, *_: {
            **whole(task.places),
            **dict.fromkeys(keys, Kept(0)),
        },
        "slimgpt.pruning.driver.read_metric": lambda *_: None,
        "slimgpt.pruning.record.tried": lambda *_: None,
    }
    with ExitStack() as stack:
        for target, stand_in in stand_ins.items():
            stack.enter_context(patch(target, stand_in))
        return prune(config).path
