"""What can be combined: which command prunes at which granularity, and how it calls method, ratio and allocation.

Data alone. Whether a method, a pattern or an allocation exists is known to the options of the command itself, which
check every cell before work starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimgpt.config import DropConfig, PruneConfig, SparsifyConfig
from slimgpt.errors import ConfigError, shown

DENSE = "dense"
MOVEMENT = "movement"
"""Prunes while it tunes, so it is an option of the tuning and no command before it."""

DEFAULT = "default"
ONE_SHOT = "one-shot"
GLOBAL = "global"
PATTERN = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Granularity:
    """How the command of a granularity is called.

    Attributes:
        command: of slimgpt.
        config: its options.
        method: the option that names the method.
        ratio: the option that says how much goes.
        allocation: the option for how that varies over layers, if there is one.
        scheduled: it has schedules other than one-shot.
        zeros: weights go one by one and leave zeros, so shapes stay.
    """

    command: str
    config: type
    method: str
    ratio: str
    allocation: str | None = None
    scheduled: bool = False
    zeros: bool = False


SPARSE = Granularity("sparsify", SparsifyConfig, "method", "sparsity", "layer_ratios", scheduled=True, zeros=True)
GRANULARITIES: Mapping[str, Granularity] = {
    "structured": Granularity("prune", PruneConfig, "solver", "ratio", "allocation"),
    "depth": Granularity("drop", DropConfig, "method", "ratio"),
    "unstructured": SPARSE,
}


def granularity(name: str) -> Granularity:
    """The granularity of a name or of a pattern N:M.

    Raises:
        ConfigError: neither.
    """
    if PATTERN.fullmatch(name):
        return SPARSE
    if name not in GRANULARITIES:
        known = ", ".join(GRANULARITIES)
        raise ConfigError(f"unknown granularity {shown(name)}. Known: {known}, and N:M such as '2:4'.")
    return GRANULARITIES[name]


def implied_ratio(name: str) -> float | None:
    """The ratio that a pattern N:M implies."""
    found = PATTERN.fullmatch(name)
    return None if found is None else 1 - int(found[1]) / int(found[2])


def group_width(name: str) -> int:
    """M of a pattern N:M; 1 without one."""
    found = PATTERN.fullmatch(name)
    return 1 if found is None else int(found[2])


def allocation_options(kind: Granularity, allocation: str) -> dict[str, Any]:
    """The options for how the ratio varies over layers."""
    if allocation == DEFAULT:
        return {}
    if kind.zeros and allocation == GLOBAL:
        return {"scope": GLOBAL}
    if kind.allocation is None:
        raise ConfigError(
            f"slimgpt {kind.command} has no allocation, so {shown(allocation)} means nothing: say {DEFAULT!r}."
        )
    return {kind.allocation: allocation}
