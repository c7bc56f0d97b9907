"""What a run will do, known before it starts: kept units, parameters and bytes of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from slimgpt.allocation.allocate import allocate, allocate_uniform, movable
from slimgpt.allocation.curves import Curve
from slimgpt.allocation.goal import Goal, goal_of, met
from slimgpt.allocation.measures import ModelTimes
from slimgpt.allocation.places import (
    Allocation,
    Key,
    Place,
    layered,
    of_layer,
    parts_of,
    removed_params,
)
from slimgpt.allocation.ratios import RANKED, SEARCHED, curves
from slimgpt.allocation.shape import Shape, least
from slimgpt.arch.family import Family
from slimgpt.config.target import TargetOptions
from slimgpt.errors import ConfigError
from slimgpt.model.cache import windows
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.checks import check_context
from slimgpt.sites import Kept, Site, by_part
from slimgpt.sites.projections import member_params, unit_params

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
        places: what the model has.
        goal: what has to go.
        kept: what each place keeps.
        params_before: parameters of the model, tied ones once.
        params_after: the same when the plan is carried out.
        bytes_after: size of the written weights.
    """

    places: tuple[Place, ...]
    goal: Goal
    kept: Allocation
    params_before: int
    params_after: int
    bytes_after: int

    @property
    def ratio(self) -> float:
        """Removed fraction of all parameters."""
        return 1 - self.params_after / self.params_before

    def with_kept(self, kept: Allocation) -> Plan:
        """The same model cut in another way."""
        after = self.params_before - removed_params(self.places, kept)
        return replace(self, kept=kept, params_after=after, bytes_after=after * self.bytes_after // self.params_after)

    def of_layer(self, index: int | None) -> dict[str, Kept]:
        """What each part of a layer keeps; of the model beside its layers, for None."""
        return of_layer(self.kept, index)


def make_plan(
    checkpoint: Checkpoint,
    asked: TargetOptions,
    allocation: str,
    shape: Shape,
    bytes_per_param: int,
    times: ModelTimes | None = None,
) -> Plan:
    """Decide how many units each place keeps. A latency target needs the model's ``times``.

    Raises:
        ConfigError: the ratio or target cannot be attained, the layout does not fit, or the allocation file is wrong.
    """
    _check_round_to(shape.round_to, checkpoint.family)
    _check_blocks(shape.blocks, checkpoint.family)
    if asked.context is not None:
        check_context(checkpoint.config, asked.context, "--context")
    places, num_layers = places_of(checkpoint), len(checkpoint.layers)
    goal = goal_of(asked, checkpoint.num_params, bytes_per_param, _header_bytes(checkpoint), times, places)
    found = allocation in (SEARCHED, RANKED)
    # What a search or a ranking will find, nobody knows yet; it will be of this size.
    of_part = curves("log" if found else allocation, parts_of(layered(places)), num_layers)
    cut = movable(places, of_part)
    goal.check_attainable(_most(goal, places, cut, allocation, shape))
    some = shape.without_blocks()
    kept = along(places, _within(goal, cut, some) if found else goal, of_part, some, num_layers)
    after = checkpoint.num_params - removed_params(places, kept)
    return Plan(places, goal, kept, checkpoint.num_params, after, after * bytes_per_param)


def _most(goal: Goal, places: Sequence[Place], cut: Sequence[Place], allocation: str, shape: Shape) -> int:
    """What can go: a search takes from every place, and whole blocks where they may go; curves do not."""
    if allocation == SEARCHED:
        return goal.removed(places, least(places, shape))
    return goal.removed(cut, least(cut, shape))


def _within(goal: Goal, cut: Sequence[Place], shape: Shape) -> Goal:
    """No more than curves can give, where what is found may take from places of which they do not speak."""
    return replace(goal, removes=min(goal.removes, goal.removed(cut, least(cut, shape))))


def along(
    places: Sequence[Place], goal: Goal, of_part: Mapping[str, Curve], shape: Shape, num_layers: int
) -> dict[Key, Kept]:
    """The plan along curves that comes to the goal; in the uniform layout all layers have one ratio."""

    def cut(params: int) -> dict[Key, Kept]:
        if shape.alike:
            return allocate_uniform(places, num_layers, params, shape)
        return allocate(places, params, of_part, shape)

    floor = movable(places, of_part)
    return met(goal, floor, least(floor, shape), cut)


def places_of(checkpoint: Checkpoint) -> tuple[Place, ...]:
    """What a model has: the parts of its layers in order, and what is beside them."""
    layers: list[tuple[int | None, nn.Module]] = [*enumerate(checkpoint.layers), (None, checkpoint.skeleton)]
    window = windows(checkpoint)
    return tuple(
        _place(index, module, sites, checkpoint.family.blocks_go, window.get(index))
        for index, module in layers
        for sites in by_part(checkpoint.sites(index))
    )


def _place(index: int | None, module: nn.Module, sites: Sequence[Site], blocks_go: bool, window: int | None) -> Place:
    """Sites of one part lose a unit together."""
    first = sites[0]
    per_unit = sum(unit_params(module, site) for site in sites)
    return Place(
        layer=index,
        part=first.part,
        num_units=first.num_units,
        unit_params=per_unit,
        members=first.members,
        member_params=sum(member_params(module, site) for site in sites),
        fine=first.fine,
        unit=first.unit,
        cache_values=sum(site.cache_values for site in sites),
        window=window,
        block_params=_block_params(module, first, per_unit) if blocks_go else None,
    )


def _block_params(module: nn.Module, site: Site, per_unit: int) -> int | None:
    """What a block has beside its units; None where a site has no block of its own that could go with the last."""
    if site.block is None:
        return None
    whole = sum(parameter.numel() for parameter in module.get_submodule(site.block).parameters())
    return whole - site.num_units * per_unit


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


def _check_blocks(blocks: Sequence[str], family: Family) -> None:
    if blocks and not family.blocks_go:
        raise ConfigError(
            f"--blocks: whole blocks go in the tested families alone (slimgpt families), and {family.model_type} is "
            "none of them: leave the option out."
        )


def _check_round_to(round_to: int, family: Family) -> None:
    if round_to % family.width_multiple:
        raise ConfigError(
            f"--round-to {round_to} is not a multiple of {family.width_multiple}, which the kernels for "
            f"{family.model_type} want: use {family.width_multiple}."
        )
