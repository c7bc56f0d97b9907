"""What was found in a model: plain data.

Shapes: N units of a site · M members of a unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimgpt.detection.growth import Growth
from slimgpt.sites import Site


@dataclass(frozen=True)
class Place:
    """A site, and what follows its units.

    Attributes:
        site: where units can go.
        growth: the numbers of its layer that follow them.
    """

    site: Site
    growth: Growth


@dataclass(frozen=True)
class Refusal:
    """Something that stays whole.

    Attributes:
        path: module path in the layer of what would have lost inputs.
        reason: why, for people: the end of a sentence.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class LayerFindings:
    """Of one layer."""

    places: tuple[Place, ...]
    refusals: tuple[Refusal, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites in the order in which they run."""
        return tuple(place.site for place in self.places)


@dataclass(frozen=True)
class Detected:
    """Of a model.

    Attributes:
        path: module path of the decoder layers.
        layers: what was found in each.
        width: numbers a token in the residual stream.
        returns: length of the tuple that a layer returns, the residual stream first; 0 where that is all.
        named: the name by which layers get the stream; None where it comes first.
        not_streamed: why layers cannot be run one at a time; None where they can.
    """

    path: str
    layers: tuple[LayerFindings, ...]
    width: int
    returns: int
    named: str | None
    not_streamed: str | None
