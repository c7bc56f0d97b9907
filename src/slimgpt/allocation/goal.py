"""What a plan has to come to: how much has to go, counted in parameters or in time. Standard library only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimgpt.allocation.budget import LayerBudget, LayerPlan, SiteBudget
from slimgpt.allocation.heads import Heads
from slimgpt.config import target
from slimgpt.config.target import TargetOptions
from slimgpt.errors import ConfigError

NS_PER_MS = 10**6
ATTENTION, FFN = "attention", "ffn"


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
        attention: of one layer.
        ffn: of one layer.
    """

    fixed_ns: int
    attention: PartTimes
    ffn: PartTimes

    def of_part(self, part: str, kept: int) -> int:
        """Nanoseconds of one part of a layer."""
        return (self.attention if part == ATTENTION else self.ffn).at(kept)

    def of_model(self, layers: Sequence[LayerPlan]) -> int:
        """Nanoseconds of the whole model."""
        return self.fixed_ns + sum(self.attention.at(layer.attention) + self.ffn.at(layer.ffn) for layer in layers)


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

    def saved(self, have: SiteBudget, part: str, kept: Heads) -> int:
        """What one part of a layer gives when it keeps so much."""
        if self.times is None:
            return have.params(have.num_units) - have.params(*kept)
        assert kept.queries is None, "times are known of whole units"
        return self.times.of_part(part, have.num_units) - self.times.of_part(part, kept.units)

    def removed(self, budget: Sequence[LayerBudget], layers: Sequence[LayerPlan]) -> int:
        """What a plan gives."""
        return sum(
            self.saved(have.attention, ATTENTION, Heads(keep.attention, keep.queries))
            + self.saved(have.ffn, FFN, Heads(keep.ffn))
            for have, keep in zip(budget, layers, strict=True)
        )

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
    dense: Sequence[LayerPlan] = (),
) -> Goal:
    """The goal that options state, for a model of ``num_params`` parameters.

    ``bytes_per_param`` and ``header_bytes`` are those of the written files; ``times`` tells those of the model with the
    layers ``dense``.

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
        whole = num_params * bytes_per_param + header_bytes
        return _limit(asked, num_params, limit, f"{whole:,} bytes ({bytes_per_param} a parameter)")
    if options.target_latency is not None:
        assert times is not None
        before, wanted = times.of_model(dense), target.latency(options.target_latency)
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


def least_cut(
    goal: Goal, budget: Sequence[LayerBudget], most: int, cut: Callable[[int], list[LayerPlan]]
) -> list[LayerPlan]:
    """The smallest of the plans ``cut(parameters to remove)`` that gives what ``goal`` asks, by bisection.

    ``most`` parameters are all that can go; then the goal is met. More parameters gone give more, but for rounding:
    what is returned meets the goal in any case.
    """
    low, high = 0, most
    while high - low > max(1, most >> 20):
        middle = (low + high) // 2
        low, high = (low, middle) if goal.removed(budget, cut(middle)) >= goal.removes else (middle, high)
    return cut(high)


def _ms(ns: int) -> str:
    return f"{ns / NS_PER_MS:.3g} ms"
