"""What a target may be counted in: parameters, nanoseconds, or bytes of weights and cache. Standard library only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from slimgpt.allocation.places import Allocation, Place, removed_params, whole
from slimgpt.sites import Kept

NS_PER_MS = 10**6


class Measure(Protocol):
    """What is counted."""

    def saved(self, place: Place, kept: Kept) -> int:
        """What a place gives when it keeps so much."""

    def refusal(self, removes: int, most: int) -> str:
        """Why ``removes`` cannot go where no more than ``most`` can, for people."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of the model, tied ones once."""

    def saved(self, place: Place, kept: Kept) -> int:
        """What a place gives when it keeps so much."""
        return place.removed(kept)

    def refusal(self, removes: int, most: int) -> str:
        """Why so much cannot go."""
        return (
            f"{removes:,} parameters to remove, but at most {most:,} can go: embeddings, norms, one head group and a "
            "few FFN channels a layer stay."
        )


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

    def saved(self, place: Place, kept: Kept) -> int:
        """What a place gives when it keeps so much; nothing where it was not timed."""
        assert kept.members is None, "times are known of whole units"
        times = self.parts.get(place.part)
        return 0 if times is None else times.at(place.num_units) - times.at(kept.units)

    def refusal(self, removes: int, most: int) -> str:
        """Why so much cannot go."""
        return (
            f"{milliseconds(removes)} would have to go, and with one head group and a few FFN channels a layer left "
            f"{milliseconds(most)} are gone. Embeddings, head and norms keep their time."
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of weights, and of the keys and values that are kept while text is read and written.

    Attributes:
        num_params: parameters of the model as it is.
        places: what it has.
        bytes_per_value: of a weight, and of a number in the cache.
        context: tokens of each sequence.
        batch: sequences at a time.
    """

    num_params: int
    places: tuple[Place, ...]
    bytes_per_value: int
    context: int
    batch: int

    def saved(self, place: Place, kept: Kept) -> int:
        """What a place gives when it keeps so much."""
        return place.removed(kept) * self.bytes_per_value + (place.num_units - kept.units) * self._cache_of_unit(place)

    def weights(self, kept: Allocation) -> int:
        """Bytes of all weights."""
        return (self.num_params - removed_params(self.places, kept)) * self.bytes_per_value

    def cache(self, kept: Allocation) -> int:
        """Bytes of all keys and values; a layer with a window never holds more tokens than that."""
        return sum(kept[place.key].units * self._cache_of_unit(place) for place in self.places)

    def of_model(self, kept: Allocation) -> int:
        """Bytes of both."""
        return self.weights(kept) + self.cache(kept)

    def refusal(self, removes: int, most: int) -> str:
        """Why so much cannot go."""
        least = self.of_model(whole(self.places)) - most
        return (
            f"embeddings, norms, one head group and a few FFN channels a layer stay, and with their cache they take "
            f"{least:,} bytes ({least / 1e9:.3g} GB)."
        )

    def _cache_of_unit(self, place: Place) -> int:
        tokens = self.context if place.window is None else min(place.window, self.context)
        return place.cache_values * tokens * self.batch * self.bytes_per_value


def planned(memory: Memory, kept: Allocation) -> dict[str, Any]:
    """What a plan takes, for the record: bytes of weights and cache, before and after."""
    before = whole(memory.places)
    return {
        "context": memory.context,
        "batch": memory.batch,
        "weights_bytes": {"before": memory.weights(before), "after": memory.weights(kept)},
        "cache_bytes": {"before": memory.cache(before), "after": memory.cache(kept)},
    }


def milliseconds(ns: int) -> str:
    """A time for people."""
    return f"{ns / NS_PER_MS:.3g} ms"
