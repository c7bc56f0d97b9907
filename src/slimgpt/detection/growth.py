"""Which numbers of a layer follow its units: learned by building it anew with other numbers in its configuration.

Nothing is matched by value. Configuration keys are doubled, alone and together, until the constructor makes exactly the
tensors that twice as many units (or members) need; what else it changed on the way are the attributes that follow.

Shapes: N units of a site · M members of a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product, takewhile
from typing import Any

import torch
from torch import nn

from slimgpt.detection.numbers import Key, attributes_of, dims_of, numbers_of, sizes_of, with_numbers
from slimgpt.sites import Site

MOST_SETS = 4  # of keys that are tried together
MOST_KEYS = 3  # that follow one another's units: heads, KV heads, and the hidden size where heads fill it


@dataclass(frozen=True)
class Growth:
    """How the numbers of a layer follow the units of one site.

    Attributes:
        by_units: keys that are proportional to the units.
        by_members: keys that are proportional to the members of a unit.
        keys: configuration key -> its value in the dense layer, for the keys whose modules read them while they run.
        attributes: module path -> name -> values at N and 2N units, and the same with 2M members.
        exact: the constructor makes the pruned layer when it is given these keys, and changes nothing else.
    """

    by_units: frozenset[Key]
    by_members: frozenset[Key]
    keys: Mapping[Key, Any]
    attributes: Mapping[str, Mapping[str, tuple[Any, Any, Any, Any]]] = field(default_factory=dict)
    exact: bool = True

    def values(self, units: float, members: float) -> dict[str, dict[str, Any]]:
        """Attributes by module path, with these shares of units and of members left."""
        return {
            path: {name: _between(corners, units, members) for name, corners in names.items()}
            for path, names in self.attributes.items()
        }

    def settings(self, units: float, members: float) -> dict[Key, Any]:
        """Configuration keys, with these shares of units and of members left."""
        return {
            key: times(value, (units if key in self.by_units else 1) * (members if key in self.by_members else 1))
            for key, value in self.keys.items()
        }


def times(value: Any, factor: float) -> Any:
    """A number, or a list of them, times a factor."""
    return [times(one, factor) for one in value] if isinstance(value, list) else round(value * factor)


def _between(corners: Sequence[Any], units: float, members: float) -> Any:
    """Along the straight lines through what a number is at once and twice the units, and the members."""
    if isinstance(corners[0], (list, tuple)):
        return [_between(of_one, units, members) for of_one in zip(*corners, strict=True)]
    once, twice_units, twice_members, both = corners
    fewer = once + (units - 1) * (twice_units - once)
    fewer_with_twice_members = twice_members + (units - 1) * (both - twice_members)
    value = fewer + (members - 1) * (fewer_with_twice_members - fewer)
    return value if isinstance(once, float) else round(value)


Build = Callable[[Mapping[Key, Any]], nn.Module | None]
"""A layer of the class at hand on the meta device, with other numbers in its configuration; None where it refuses."""


def builder(layer: nn.Module, config: Any, index: int, whole: Callable[[Any], nn.Module]) -> Build:
    """How to build a layer anew: by its own constructor, or where that asks for more than configuration and index, as a
    part of the model that ``whole`` builds.
    """
    expected = {name: parameter.shape for name, parameter in layer.named_parameters()}

    def alone(changed: Any) -> nn.Module:
        with torch.device("meta"):
            return type(layer)(changed, index)

    def build_with(make: Callable[[Any], nn.Module]) -> Build:
        def build(numbers: Mapping[Key, Any]) -> nn.Module | None:
            try:
                return make(with_numbers(config, numbers))
            except Exception:  # a constructor that refuses numbers may do so in any way
                return None

        return build

    for make in (alone, whole):
        build = build_with(make)
        built = build({})
        if built is not None and {name: one.shape for name, one in built.named_parameters()} == expected:
            return build
    return lambda numbers: None


@dataclass(frozen=True)
class _Lesson:
    """What is asked of a constructor.

    Attributes:
        site: whose units are doubled.
        build: the constructor.
        dense: the layer as it is.
        numbers: of its configuration.
        block: path of the smallest module that holds the site.
    """

    site: Site
    build: Build
    dense: nn.Module
    numbers: Mapping[Key, Any]
    block: str

    def doubled(self, *sets: frozenset[Key]) -> nn.Module | None:
        """The layer with the keys of each set doubled; a key of two sets is quadrupled."""
        factors = {key: 2 ** sum(key in keys for keys in sets) for key in self.numbers}
        return self.build({key: times(self.numbers[key], factor) for key, factor in factors.items() if factor > 1})


def growths(site: Site, build: Build, config: Any) -> Iterator[Growth]:
    """Ways in which a layer's numbers may follow a site's units, the likeliest first."""
    dense = build({})
    if dense is not None:
        lesson = _Lesson(site, build, dense, numbers_of(config), block_of(site))
        near = _relevant(lesson)
        by_units = _doublings(lesson, near, by_members=False)
        by_members = _doublings(lesson, near, by_members=True) if site.members > 1 else [(frozenset[Key](), True)]
        for exactly in (True, False):
            for (units, one), (members, other) in product(by_units, by_members):
                if (one and other) is exactly:
                    yield from _learned(lesson, units, members, exactly)
            if exactly:
                yield Growth(frozenset(), frozenset(), {}, exact=False)  # nothing follows


def block_of(site: Site) -> str:
    """The path of the smallest module that holds the consumer and all its producers."""
    paths = [path.split(".")[:-1] for path in (site.consumer, *(segment.path for segment in site.producers))]
    return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False)))


def _relevant(lesson: _Lesson) -> list[Key]:
    """Keys that have a say in the site's tensors, or in the attributes of the modules around it."""
    dims, sizes = dims_of(lesson.dense, lesson.site), sizes_of(lesson.dense)
    attributes = attributes_of(lesson.dense, lesson.block)

    def matters(key: Key) -> bool:
        changed = lesson.doubled(frozenset({key}))
        if changed is None:
            return True  # refused alone: heads that no longer divide, say; perhaps not together with others
        made = sizes_of(changed)
        same = made.keys() == sizes.keys() and all(made[dim] == sizes[dim] for dim in dims)
        return not same or attributes_of(changed, lesson.block) != attributes

    return [key for key in lesson.numbers if matters(key)]


def _doublings(lesson: _Lesson, near: Sequence[Key], by_members: bool) -> list[tuple[frozenset[Key], bool]]:
    """Sets of keys whose doubling makes what twice the units (or members) need; and whether it makes nothing else.

    Those that leave alone what a unit is, such as its width and how it is scaled, come first.
    """
    dims = dims_of(lesson.dense, lesson.site, by_members)
    wanted = {dim: size + dims.get(dim, 0) for dim, size in sizes_of(lesson.dense).items()}
    attributes = attributes_of(lesson.dense, lesson.block)
    found = []
    for keys in (frozenset(some) for count in range(1, MOST_KEYS + 1) for some in combinations(near, count)):
        changed = lesson.doubled(keys)
        made = sizes_of(changed) if changed is not None else {}
        if changed is not None and all(made.get(dim) == wanted[dim] for dim in dims):
            others = attributes_of(changed, lesson.block)
            moved = [value for name, value in attributes.items() if others.get(name) != value]
            odd = sum(isinstance(value, float) for value in moved)
            found.append(((made != wanted, odd, len(moved), len(keys)), (keys, made == wanted)))
    return [answer for _, answer in sorted(found, key=lambda one: one[0])[:MOST_SETS]]


def _learned(lesson: _Lesson, units: frozenset[Key], members: frozenset[Key], exact: bool) -> Iterator[Growth]:
    """What the constructor does to attributes when units, members and both are doubled."""
    corners = [lesson.doubled(), lesson.doubled(units), lesson.doubled(members), lesson.doubled(units, members)]
    seen = [attributes_of(corner, "" if exact else lesson.block) for corner in corners if corner is not None]
    follow: dict[str, dict[str, Any]] = {}
    for path, name in seen[0]:
        values = tuple(one.get((path, name)) for one in seen)
        if any(other != values[0] for other in values):
            follow.setdefault(path, {})[name] = values
    alike = all(_alike(values) for names in follow.values() for values in names.values())
    if len(seen) == len(corners) and alike:
        keys = {key: lesson.numbers[key] for key in units | members}
        near = {key: number for key, number in keys.items() if exact or not _says_more(lesson, key)}
        for some in [near] if exact else [near, {}, keys]:
            yield Growth(units, members, some, follow, exact)


def _says_more(lesson: _Lesson, key: Key) -> bool:
    """A key has a say in other tensors than the site's: the hidden size, where heads fill it."""
    changed = lesson.doubled(frozenset({key}))
    made, dims = sizes_of(changed) if changed is not None else {}, dims_of(lesson.dense, lesson.site)
    return any(made.get(dim, size) != size for dim, size in sizes_of(lesson.dense).items() if dim not in dims)


def _alike(values: Sequence[Any]) -> bool:
    """Numbers all, or all as many numbers."""
    if isinstance(values[0], (list, tuple)):
        return len({len(value) if isinstance(value, (list, tuple)) else -1 for value in values}) == 1
    return all(isinstance(value, (int, float)) for value in values)
