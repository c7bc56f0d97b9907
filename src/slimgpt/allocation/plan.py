"""What a run will do, known before it starts: kept units, parameters and bytes of every layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from slimgpt.allocation.allocate import allocate, allocate_uniform
from slimgpt.allocation.budget import LayerBudget, LayerPlan, SiteBudget, floors, removed_params
from slimgpt.allocation.curves import CURVES, Curve, scaled_curves
from slimgpt.allocation.goal import Goal, ModelTimes, goal_of, least_cut
from slimgpt.arch.family import ATTENTION, FFN, QUERIES, Family, member_params, unit_params
from slimgpt.config import PruneConfig
from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.sites import Site, by_part

SEARCHED = "searched"
"""The allocation that is measured on the model at hand, not read off a curve."""

RANKED = "flap"
"""The allocation that ranks the units of all layers by their standardised fluctuation."""

TOLERANCE = 0.003
"""How far the result may be from the asked size, as a fraction of the model, before the plan warns."""

ENOUGH_TOKENS = 20
"""Calibration tokens for each input of a consumer; with fewer, more of them still pay well: from 5 to 21,
perplexity fell by a tenth (benchmarks/results/calibration_tokens.md)."""

HEADER_BYTES = 120
"""What a safetensors file, and the index of several, say of a tensor beside its name, twice written."""


@dataclass(frozen=True)
class Plan:
    """Sizes before and after.

    Attributes:
        budget: what each layer has.
        goal: what they have to come to.
        layers: units that each layer keeps.
        params_before: parameters of the model, tied ones once.
        params_after: the same when the plan is carried out.
        bytes_after: size of the written weights.
    """

    budget: list[LayerBudget]
    goal: Goal
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
        """Units kept by site name, and the query heads kept in each KV group where that is not all of them."""
        keep = self.layers[index]
        queries = {} if keep.queries is None else {QUERIES: keep.queries}
        return {ATTENTION: keep.attention, FFN: keep.ffn, **queries}

    @property
    def kept_by_layer(self) -> list[dict[str, int]]:
        """The same of all layers."""
        return [self.kept(index) for index in range(len(self.layers))]

    def kept_members(self, index: int, site: Site) -> int:
        """Members that each kept unit of a site keeps."""
        queries = self.layers[index].queries if site.part == ATTENTION else None
        return site.members if queries is None else queries


def make_plan(
    checkpoint: Checkpoint, config: PruneConfig, bytes_per_param: int, times: ModelTimes | None = None
) -> Plan:
    """Decide how many units each site keeps. A latency target needs the model's ``times``.

    Raises:
        ConfigError: the ratio or target cannot be attained, the layout does not fit, or the allocation file is wrong.
    """
    _check_round_to(config.round_to, checkpoint.family)
    budget = layer_budgets(checkpoint)
    goal = goal_of(
        config, checkpoint.num_params, bytes_per_param, _header_bytes(checkpoint), times, dense_layers(budget)
    )
    goal.check_attainable(goal.removed(budget, floors(budget, config.round_to)))
    if config.layout == "uniform":
        layers = _meet(
            budget,
            goal,
            config.round_to,
            lambda params: allocate_uniform(budget, params, config.round_to, config.by_queries),
        )
    else:
        # What a search or a ranking will find, nobody knows yet; it will be of this size.
        name = "log" if config.chosen_allocation in (SEARCHED, RANKED) else config.chosen_allocation
        layers = along(budget, goal, *curves(name, len(budget)), config.round_to, config.by_queries)
    after = checkpoint.num_params - removed_params(budget, layers)
    return Plan(budget, goal, layers, checkpoint.num_params, after, after * bytes_per_param)


def along(
    budget: Sequence[LayerBudget], goal: Goal, attention: Curve, ffn: Curve, round_to: int, by_queries: bool
) -> list[LayerPlan]:
    """The plan along two curves that comes to the goal."""
    return _meet(budget, goal, round_to, lambda params: allocate(budget, params, attention, ffn, round_to, by_queries))


def _meet(
    budget: Sequence[LayerBudget], goal: Goal, round_to: int, cut: Callable[[int], list[LayerPlan]]
) -> list[LayerPlan]:
    """Of the plans ``cut(parameters to remove)`` the one that comes to the goal."""
    if not goal.at_least:
        return cut(goal.removes)
    return least_cut(goal, budget, removed_params(budget, floors(budget, round_to)), cut)


def layer_budgets(checkpoint: Checkpoint) -> list[LayerBudget]:
    """What each layer has."""
    return [_budget(checkpoint, index) for index in range(len(checkpoint.layers))]


def dense_layers(budget: Sequence[LayerBudget]) -> list[LayerPlan]:
    """The plan that keeps everything."""
    return [LayerPlan(layer.attention.num_units, layer.ffn.num_units) for layer in budget]


def _header_bytes(checkpoint: Checkpoint) -> int:
    return sum(2 * len(name) + HEADER_BYTES for name in checkpoint.weights.names())


def tokens_per_input(checkpoint: Checkpoint, num_tokens: int) -> tuple[float, int]:
    """Calibration tokens for each input of the consumer that has the fewest, and how many inputs it has.

    Each expert sees its share of the tokens, on average.
    """
    shared = getattr(checkpoint.config, "num_experts_per_tok", 1)
    found = []
    for sites in map(by_part, map(checkpoint.sites, range(len(checkpoint.layers)))):
        for part in sites:
            share = shared / len(part) if len(part) > 1 else 1
            found.append((num_tokens * share / part[0].num_inputs, part[0].num_inputs))
    return min(found)


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
    params, of_member = (sum(count(layer, site) for site in sites) for count in (unit_params, member_params))
    return SiteBudget(sites[0].num_units, params, sites[0].members, of_member)


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
