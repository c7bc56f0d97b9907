"""What a plan has to come to: how much has to go, counted in parameters, time or memory. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimgpt.allocation.measures import NS_PER_MS, Measure, Memory, ModelTimes, Parameters, milliseconds
from slimgpt.allocation.places import Allocation, Key, Place, removed_params, whole
from slimgpt.config import target
from slimgpt.config.target import TargetOptions
from slimgpt.errors import ConfigError
from slimgpt.sites import Kept

PARAMETERS = Parameters()


@dataclass(frozen=True)
class Goal:
    """How much has to go.

    Attributes:
        asked: the option with its value, for messages.
        removes: what has to go, in what the measure counts.
        at_least: not less may go (a target is a limit); else as near as whole units come (a ratio).
        measure: what is counted.
    """

    asked: str
    removes: int
    at_least: bool = False
    measure: Measure = PARAMETERS

    def saved(self, place: Place, kept: Kept) -> int:
        """What a place gives when it keeps so much."""
        return self.measure.saved(place, kept)

    def removed(self, places: Sequence[Place], kept: Allocation) -> int:
        """What a plan gives."""
        return sum(self.saved(place, kept[place.key]) for place in places)

    def check_attainable(self, most: int) -> None:
        """Raise ConfigError where all that may go is less than what has to go."""
        if self.removes > most:
            why = self.measure.refusal(self.removes, most)
            cure = "Raise the target." if self.at_least else "Lower --ratio."
            raise ConfigError(f"{self.asked} cannot be attained: {why} {cure}")


def goal_of(
    options: TargetOptions,
    num_params: int,
    bytes_per_param: int,
    header_bytes: int = 0,
    times: ModelTimes | None = None,
    places: Sequence[Place] = (),
) -> Goal:
    """The goal that options state, for a model of ``num_params`` parameters.

    ``bytes_per_param`` and ``header_bytes`` are those of the written files; ``times`` tells those of the model with the
    ``places``.

    Raises:
        ConfigError: the dense model is already there, or its cache is not known.
    """
    if options.target_params is not None:
        limit = target.count(options.target_params)
        asked = f"--target-params {options.target_params}"
        return _limit(asked, num_params, limit, f"{num_params:,} parameters", PARAMETERS)
    if options.target_size is not None:
        limit = (target.size(options.target_size) - header_bytes) // bytes_per_param
        asked = f"--target-size {options.target_size}"
        num_bytes = num_params * bytes_per_param + header_bytes
        return _limit(asked, num_params, limit, f"{num_bytes:,} bytes ({bytes_per_param} a parameter)", PARAMETERS)
    if options.target_memory is not None:
        return _memory_goal(options, num_params, bytes_per_param, places)
    if options.target_latency is not None:
        assert times is not None
        before, wanted = times.of_model(whole(places)), target.latency(options.target_latency)
        limit = int(wanted.value * (before if wanted.relative else NS_PER_MS))
        asked = f"--target-latency {options.target_latency}"
        return _limit(asked, before, limit, f"a {options.latency_of} time of {milliseconds(before)}", times)
    ratio = options.asked_ratio
    assert ratio is not None
    return Goal(f"--ratio {ratio}", round(ratio * num_params))


def _memory_goal(options: TargetOptions, num_params: int, bytes_per_param: int, places: Sequence[Place]) -> Goal:
    """Weights and cache within ``--target-memory``."""
    assert options.target_memory is not None and options.context is not None
    if not any(place.cache_values for place in places):
        raise ConfigError(
            "--target-memory counts the cache, and what this model keeps there is known of the tested families alone "
            "(slimgpt families): give --target-size, which counts the weights."
        )
    memory = Memory(num_params, tuple(places), bytes_per_param, options.context, options.batch)
    weights, cache = memory.weights(whole(places)), memory.cache(whole(places))
    asked = f"--target-memory {options.target_memory} --context {options.context} --batch {options.batch}"
    has = f"{weights:,} bytes of weights and {cache:,} of cache"
    return _limit(asked, weights + cache, target.memory(options.target_memory), has, memory)


def _limit(asked: str, before: int, limit: int, has: str, measure: Measure) -> Goal:
    if limit >= before:
        raise ConfigError(f"{asked} asks for nothing: the model as it is has {has}. Lower it.")
    return Goal(asked, before - limit, at_least=True, measure=measure)


def met(
    goal: Goal, places: Sequence[Place], narrowest: Allocation, cut: Callable[[int], dict[Key, Kept]]
) -> dict[Key, Kept]:
    """Of the plans ``cut(parameters to remove)`` the one that comes to the goal; ``narrowest`` is all that can go.

    A target is a limit: the smallest cut that gives what is asked, by bisection. More parameters gone give more, but
    for rounding: what is returned meets the goal in any case.
    """
    if not goal.at_least:
        return cut(goal.removes)
    low, high = 0, removed_params(places, narrowest)
    most = high
    while high - low > max(1, most >> 20):
        middle = (low + high) // 2
        low, high = (low, middle) if goal.removed(places, cut(middle)) >= goal.removes else (middle, high)
    return cut(high)
