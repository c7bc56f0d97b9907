"""What a finished search says of another ratio or target, without its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.allocation.budget import LayerPlan
from slimgpt.allocation.goal import goal_of
from slimgpt.allocation.latency import LatencyTable, predicted, read_table
from slimgpt.allocation.plan import dense_layers
from slimgpt.config import SearchConfig
from slimgpt.errors import ConfigError
from slimgpt.search.allocate import allocate
from slimgpt.search.cache import LossCurves, read_curves


@dataclass(frozen=True)
class Answer:
    """An allocation.

    Attributes:
        curves: of the search.
        asked: the option that it answers.
        layers: units that every layer keeps.
        loss: the predicted loss, nats a token.
        latency: predicted times, where a table of them was given.
    """

    curves: LossCurves
    asked: str
    layers: list[LayerPlan]
    loss: float
    latency: dict[str, Any] | None


def answer(config: SearchConfig) -> Answer:
    """Allocate by the curves in ``config.cache``.

    Raises:
        ConfigError: there is no search or no latency table, or the target cannot be attained.
    """
    curves = read_curves(Path(config.cache).expanduser())
    dense = dense_layers(curves.budget)
    table = _table(config, curves)
    times = table.times[config.latency_of] if table is not None else None
    goal = goal_of(config, curves.num_params, curves.bytes_per_param, times=times, dense=dense)
    layers, loss = allocate(curves, goal, config.round_to, config.by_queries)
    return Answer(curves, goal.asked, layers, loss, predicted(table, dense, layers) if table is not None else None)


def _table(config: SearchConfig, curves: LossCurves) -> LatencyTable | None:
    if config.latency_table is None:
        return None
    path = Path(config.latency_table).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"--latency-table {path} does not exist: slimgpt prune {curves.model} OUT --target-latency "
            f"{config.target_latency} --latency-table {path} measures it."
        )
    table = read_table(path)
    found, wanted = (table.model.get(key) for key in ("parameters", "layers")), (curves.num_params, len(curves.layers))
    if tuple(found) != wanted:
        raise ConfigError(
            f"--latency-table {path} is of another model: it has {table.model.get('parameters'):,} parameters in "
            f"{table.model.get('layers')} layers, and the one of the search {wanted[0]:,} in {wanted[1]}."
        )
    return table
