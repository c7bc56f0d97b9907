"""What a finished search says of another ratio or target, without its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slimgpt.allocation.goal import goal_of
from slimgpt.allocation.latency import LatencyTable, predicted, read_table
from slimgpt.allocation.measures import Memory, planned
from slimgpt.allocation.places import Allocation, whole
from slimgpt.allocation.shape import Shape
from slimgpt.config import SearchConfig
from slimgpt.config.paths import path_of
from slimgpt.errors import ConfigError
from slimgpt.output.single_file import single_file
from slimgpt.searching.allocate import allocate, to_yaml
from slimgpt.searching.cache import LossCurves, read_curves


@dataclass(frozen=True)
class SearchResult:
    """An allocation.

    Attributes:
        curves: of the search.
        asked: the option that it answers.
        kept: what every place keeps.
        loss: the predicted loss, nats a token.
        latency: predicted times, where a table of them was given.
        memory: bytes of weights and cache, where those were the target.
    """

    curves: LossCurves
    asked: str
    kept: Allocation
    loss: float
    latency: dict[str, Any] | None
    memory: dict[str, Any] | None


def search(config: SearchConfig) -> SearchResult:
    """Allocate by the curves in ``config.cache``; with ``out``, write what ``--allocation`` reads.

    Raises:
        ConfigError: there is no search or no latency table, or the target cannot be attained.
        OutputError: ``out`` exists, or its folder does not.
    """
    with single_file(config.out, "--out") as file:
        found = _found(config)
        file.write_text(to_yaml(found.curves, found.kept))
    return found


def _found(config: SearchConfig) -> SearchResult:
    curves = read_curves(path_of(config.cache, "CACHE"))
    table = _table(config, curves)
    times = table.times[config.latency_of] if table is not None else None
    goal = goal_of(config, curves.num_params, curves.bytes_per_param, times=times, places=curves.places)
    shape = Shape(
        round_to=config.round_to,
        by_members=config.by_queries,
        blocks=config.whole_blocks,
        tensor_parallel=config.tensor_parallel,
    )
    kept, loss = allocate(curves, goal, shape)
    times_of_plan = predicted(table, whole(curves.places), kept) if table is not None else None
    memory = planned(goal.measure, kept) if isinstance(goal.measure, Memory) else None
    return SearchResult(curves, goal.asked, kept, loss, times_of_plan, memory)


def _table(config: SearchConfig, curves: LossCurves) -> LatencyTable | None:
    if config.latency_table is None:
        return None
    path = path_of(config.latency_table, "--latency-table")
    if not path.is_file():
        raise ConfigError(
            f"--latency-table {path} does not exist: slimgpt prune {curves.model} OUT --target-latency "
            f"{config.target_latency} --latency-table {path} measures it."
        )
    table = read_table(path)
    found, wanted = (table.model.get(key) for key in ("parameters", "layers")), (curves.num_params, curves.num_layers)
    if tuple(found) != wanted:
        raise ConfigError(
            f"--latency-table {path} is of another model: it has {table.model.get('parameters'):,} parameters in "
            f"{table.model.get('layers')} layers, and the one of the search {wanted[0]:,} in {wanted[1]}."
        )
    return table
