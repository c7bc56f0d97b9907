"""What a plan has to come to: how much has to go, counted in parameters or in time. Standard library only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slimgpt.allocation.places import Allocation, Key, Place, removed_params, whole
from slimgpt.config import target
from slimgpt.config.target import TargetOptions
from slimgpt.errors import ConfigError
from slimgpt.sites import Kept

NS_PER_MS = 10**6


@dataclass(frozen=True)
class PartTimes:
    """Time that one part of a layer takes by its width, above what the narrowest takes.

    Attributes:
        units: units kept, ascending.
        ns: nanoseconds; never less with more units.
    """

    units: tuple[int, ...]
    ns: tuple[int, ...]

    def at(self, kept: int) -> int:
        """Between the measured widths a straight line, outside them the nearest."""
        right = bisect_right(self.units, kept)
        if right in (0, len(self.units)):
            return self.ns[max(right - 1, 0)]
        (left_units, right_units), (left, up) = self.units[right - 1 : right + 1], self.ns[right - 1 : right + 1]
        return left + (up - left) * (kept - left_units) // (right_units - left_units)


@dataclass(frozen=True)
class ModelTimes:
    """What a model's time is made of.

    Attributes:
        fixed_ns: what no width changes: embeddings, norms, head, and every layer at its narrowest.
        parts: of each part that was timed, in one layer.
    """

    fixed_ns: int
    parts: Mapping[str, PartTimes]

    def of_model(self, kept: Allocation) -> int:
        """Nanoseconds of the whole model."""
        timed = (self.parts[key.part].at(value.units) for key, value in kept.items() if key.part in self.parts)
        return self.fixed_ns + sum(timed)


@dataclass(frozen=True)
class Goal:
    """How much has to go.

    Attributes:
        asked: the option with its value, for messages.
        removes: parameters, or nanoseconds, that have to go.
        at_least: not less may go (a target is a limit); else as near as whole units come (a ratio).
        times: what is counted in nanoseconds; None counts parameters.
    """

    asked: str
    removes: int
    at_least: bool = False
    times: ModelTimes | None = None

    def saved(self, place: Place, kept: Kept) -> int:
        """What a place gives when it keeps so much."""
        if self.times is None:
            return place.removed(kept)
        assert kept.members is None, "times are known of whole units"
        times = self.times.parts.get(place.part)
        return 0 if times is None else times.at(place.num_units) - times.at(kept.units)

    def removed(self, places: Sequence[Place], kept: Allocation) -> int:
        """What a plan gives."""
        return sum(self.saved(place, kept[place.key]) for place in places)

    def check_attainable(self, most: int) -> None:
        """Raise ConfigError where all that may go is less than what has to go."""
        if self.removes <= most:
            return
        if self.times is not None:
            raise ConfigError(
                f"{self.asked} cannot be attained: {_ms(self.removes)} would have to go, and with one head group and a "
                f"few FFN channels a layer left {_ms(most)} are gone. Embeddings, head and norms keep their time."
            )
        raise ConfigError(
            f"{self.asked} cannot be attained: {self.removes:,} parameters to remove, but at most {most:,} can go: "
            "embeddings, norms, one head group and a few FFN channels a layer stay. "
            + ("Raise the target." if self.at_least else "Lower --ratio.")
        )


def goal_of(
    options: TargetOptions,
    num_params: int,
    bytes_per_param: int | None = None,
    header_bytes: int = 0,
    times: ModelTimes | None = None,
    places: Sequence[Place] = (),
) -> Goal:
    """The goal that options state, for a model of ``num_params`` parameters.

    ``bytes_per_param`` and ``header_bytes`` are those of the written files; ``times`` tells those of the model with the
    ``places``.

    Raises:
        ConfigError: the dense model is already there.
    """
    if options.target_params is not None:
        limit = target.count(options.target_params)
        asked = f"--target-params {options.target_params}"
        return _limit(asked, num_params, limit, f"{num_params:,} parameters")
    if options.target_size is not None:
        assert bytes_per_param is not None
        limit = (target.size(options.target_size) - header_bytes) // bytes_per_param
        asked = f"--target-size {options.target_size}"
        num_bytes = num_params * bytes_per_param + header_bytes
        return _limit(asked, num_params, limit, f"{num_bytes:,} bytes ({bytes_per_param} a parameter)")
    if options.target_latency is not None:
        assert times is not None
        before, wanted = times.of_model(whole(places)), target.latency(options.target_latency)
        limit = int(wanted.value * (before if wanted.relative else NS_PER_MS))
        asked = f"--target-latency {options.target_latency}"
        return _limit(asked, before, limit, f"a {options.latency_of} time of {_ms(before)}", times)
    ratio = options.asked_ratio
    assert ratio is not None
    return Goal(f"--ratio {ratio}", round(ratio * num_params))


def _limit(asked: str, before: int, limit: int, has: str, times: ModelTimes | None = None) -> Goal:
    if limit >= before:
        raise ConfigError(f"{asked} asks for nothing: the model as it is has {has}. Lower it.")
    return Goal(asked, before - limit, at_least=True, times=times)


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


def _ms(ns: int) -> str:
    return f"{ns / NS_PER_MS:.3g} ms"
