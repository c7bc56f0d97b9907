"""What a run will do, known before it starts: kept units, parameters and bytes of every layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from slimgpt.allocation import (
    CURVES,
    Curve,
    LayerBudget,
    LayerPlan,
    SiteBudget,
    allocate,
    allocate_uniform,
    removed_params,
    scaled_curves,
)
from slimgpt.arch.family import ATTENTION, FFN, Family, unit_params
from slimgpt.checkpoint import Checkpoint
from slimgpt.config import PruneConfig
from slimgpt.errors import ConfigError
from slimgpt.sites import Site

SEARCHED = "searched"
"""The allocation that is measured on the model at hand, not read off a curve."""

RANKED = "flap"
"""The allocation that ranks the units of all layers by their standardised fluctuation."""

TOLERANCE = 0.003
"""How far the result may be from the asked ratio, as a fraction of the model, before the plan warns."""


@dataclass(frozen=True)
class Plan:
    """Sizes before and after.

    Attributes:
        budget: what each layer has.
        layers: units that each layer keeps.
        params_before: parameters of the model, tied ones once.
        params_after: the same when the plan is carried out.
        bytes_after: size of the written weights.
    """

    budget: list[LayerBudget]
    layers: list[LayerPlan]
    params_before: int
    params_after: int
    bytes_after: int

    @property
    def ratio(self) -> float:
        """Removed fraction of all parameters."""
        return 1 - self.params_after / self.params_before

    def with_layers(self, layers: list[LayerPlan]) -> Plan:
        """The same model cut in another way."""
        after = self.params_before - removed_params(self.budget, layers)
        return replace(
            self, layers=layers, params_after=after, bytes_after=after * self.bytes_after // self.params_after
        )

    def kept(self, index: int) -> dict[str, int]:
        """Units kept by site name."""
        return {ATTENTION: self.layers[index].attention, FFN: self.layers[index].ffn}


def make_plan(checkpoint: Checkpoint, config: PruneConfig, bytes_per_param: int) -> Plan:
    """Decide how many units each site keeps.

    Raises:
        ConfigError: the ratio cannot be attained, the layout does not fit, or the allocation file is wrong.
    """
    _check_round_to(config.round_to, checkpoint.family)
    budget = [_budget(checkpoint, index) for index in range(len(checkpoint.layers))]
    target = round(config.ratio * checkpoint.num_params)
    if config.layout == "uniform":
        layers = allocate_uniform(budget, target, config.round_to)
    else:
        # What a search or a ranking will find, nobody knows yet; it will be of this size.
        name = "log" if config.allocation in (None, SEARCHED, RANKED) else config.allocation
        attention, ffn = curves(name, len(budget))
        layers = allocate(budget, target, attention, ffn, config.round_to)
    after = checkpoint.num_params - removed_params(budget, layers)
    return Plan(budget, layers, checkpoint.num_params, after, after * bytes_per_param)


def ranks(config: PruneConfig) -> bool:
    """A ranking says what every layer keeps."""
    chosen = config.allocation or (RANKED if config.solver == "flap" and config.layout == "per-layer" else None)
    return chosen == RANKED and config.ratio > 0


def _check_round_to(round_to: int, family: Family) -> None:
    if round_to % family.width_multiple:
        raise ConfigError(
            f"--round-to {round_to} is not a multiple of {family.width_multiple}, which the kernels for "
            f"{family.model_type} want: use {family.width_multiple}."
        )


def _budget(checkpoint: Checkpoint, index: int) -> LayerBudget:
    layer = checkpoint.layers[index]
    sites = checkpoint.sites(index)
    return LayerBudget(*(_part_budget(layer, [s for s in sites if s.part == part]) for part in (ATTENTION, FFN)))


def _part_budget(layer: nn.Module, sites: Sequence[Site]) -> SiteBudget:
    """Sites of one part lose a unit together."""
    return SiteBudget(sites[0].num_units, sum(unit_params(layer, site) for site in sites))


def curves(allocation: str, num_layers: int) -> tuple[Curve, Curve]:
    """The ratio curves of attention and FFN: a name of ``CURVES``, or a file with the ratios.

    Raises:
        ConfigError: neither a known name nor a readable file of the right length.
    """
    if allocation in CURVES:
        curve = CURVES[allocation](num_layers)
        return curve, curve
    path = Path(allocation).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"--allocation {allocation!r} is neither one of {SEARCHED}, {RANKED}, {', '.join(CURVES)} nor a file with "
            "one ratio per layer."
        )
    content = _read(path)
    named = content if isinstance(content, Mapping) else {ATTENTION: content, FFN: content}
    if set(named) != {ATTENTION, FFN}:
        raise ConfigError(f"{path}: give a list of {num_layers} ratios, or two such lists, 'attention' and 'ffn'.")
    shapes = [_ratios(named[name], num_layers, f"{path}: {name}") for name in (ATTENTION, FFN)]
    if not any(map(any, shapes)):
        raise ConfigError(f"{path}: all ratios are 0, so there is no shape to scale to --ratio.")
    attention, ffn = scaled_curves(*shapes)
    return attention, ffn


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not valid JSON or YAML: {str(error).splitlines()[0]}") from error


def _ratios(values: Any, num_layers: int, where: str) -> Sequence[float]:
    if not isinstance(values, list) or len(values) != num_layers:
        raise ConfigError(f"{where}: needs a list of {num_layers} ratios, one per layer.")
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ConfigError(f"{where}: ratio {value!r} of layer {index} is not a number in [0, 1].")
    return values
