"""A look at one layer: its sites, each tried, and a reason for what is none.

Shapes: N units of a site.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.detection.bench import Bench
from slimgpt.detection.building import empty_model
from slimgpt.detection.companions import companions
from slimgpt.detection.decoder import Decoder
from slimgpt.detection.findings import LayerFindings, Place, Refusal
from slimgpt.detection.growth import Build, builder, growths
from slimgpt.detection.reach import Reach, reaches
from slimgpt.detection.rehearsal import half_of, rehearse, trials
from slimgpt.detection.units import NotSeparable, Units, find_units
from slimgpt.sites import ATTENTION, FFN, Segment, Site
from slimgpt.sites.projections import weight_OI

KINDS = {False: FFN, True: ATTENTION}  # by whether units act on other positions than their own
MOST_GROWTHS = 24  # that are tried for a site


@dataclass(frozen=True)
class Look:
    """At one layer."""

    layer: nn.Module
    index: int
    config: Any
    few: Decoder
    more: Decoder
    owned: set[int]

    @cached_property
    def bench(self) -> Bench:
        """With few tokens."""
        return Bench(self.layer, self.few.calls[self.index])

    @cached_property
    def stage(self) -> Bench:
        """With more tokens."""
        return Bench(self.layer, self.more.calls[self.index])

    def findings(self) -> LayerFindings:
        """Everything there is to find."""
        places: list[Place] = []
        refusals: list[Refusal] = []
        for consumer, reached in self.reached().items():
            try:
                places.append(self.place(consumer, reached))
            except NotSeparable as reason:
                refusals.append(Refusal(consumer, str(reason)))
        return LayerFindings(tuple(places), tuple(refusals))

    def confirmed(self, other: LayerFindings) -> LayerFindings:
        """What was found in a layer of the same signature, as far as it holds here."""
        kept, refusals = [], list(other.refusals)
        for place in other.places:
            why = rehearse(self.stage, place.site, place.growth, half_of(place.site))
            if why is None:
                kept.append(place)
            else:
                refusals.append(Refusal(place.site.consumer, why))
        return LayerFindings(tuple(kept), tuple(refusals))

    def reached(self) -> dict[str, dict[str, Reach]]:
        """By consumer, by producer: a consumer writes into the residual stream, a producer runs before it."""
        order = self.bench.projections
        writers = [path for path in self.bench.writers if not self.carries_state(path)]
        found: dict[str, dict[str, Reach]] = {}
        for number, producer in enumerate(order):
            consumers = [path for path in order[number + 1 :] if path in writers]
            for consumer, reach in reaches(self.bench, producer, consumers).items() if consumers else ():
                found.setdefault(consumer, {})[producer] = reach
        return {path: found[path] for path in order if path in found}

    def carries_state(self, path: str) -> bool:
        """A projection lies beside a convolution: a part that hands on a state of its own from token to token."""
        beside = path.rpartition(".")[0]
        return bool(beside) and any(isinstance(one, nn.Conv1d) for one in self.layer.get_submodule(beside).modules())

    def place(self, consumer: str, reached: Mapping[str, Reach]) -> Place:
        """The site of a consumer.

        Raises:
            NotSeparable: it has no units, or they do not hold.
        """
        coupling = [path for path, reach in reached.items() if bool(reach.everywhere_R.any())]
        try:
            return self.tried(consumer, reached)
        except NotSeparable as reason:
            cause = f"; {', '.join(coupling)} serve{'s' * (len(coupling) == 1)} all of them" if coupling else ""
            raise NotSeparable(f"{reason}{cause}") from reason

    def tried(self, consumer: str, reached: Mapping[str, Reach]) -> Place:
        """The same without the cause."""
        units = find_units(reached, weight_OI(self.layer.get_submodule(consumer)).shape[1])
        segments = (*units.producers, *companions(self.bench, consumer, units))
        site = self.site(consumer, units, segments)
        self.require_own(site)
        build = self.builder()
        whys: list[str] = []
        for one in (site, _without_members(site)) if site.members > 1 else (site,):
            for growth in islice(growths(one, build, self.layer_config), MOST_GROWTHS):
                why = next((why for kept in trials(one) if (why := rehearse(self.stage, one, growth, kept))), None)
                if why is None:
                    return Place(one, growth)
                whys.append(why)
        raise NotSeparable(whys[0])

    def require_own(self, site: Site) -> None:
        """Raise NotSeparable where weights of a site are those of another layer too."""
        paths = {site.consumer, *(segment.path for segment in site.producers)}
        named = self.layer.named_parameters()
        if any(id(one) not in self.owned for name, one in named if {name, name.rpartition(".")[0]} & paths):
            raise NotSeparable("its weights serve several layers")

    def site(self, consumer: str, units: Units, segments: Sequence[Segment]) -> Site:
        """With a name that says its kind only."""
        block, returns_tuple = self.answered_by(consumer)
        heads = "KV group" if units.members > 1 else "head"
        return Site(
            name=KINDS[units.onward],
            block=block,
            consumer=consumer,
            producers=tuple(segments),
            num_units=units.num_units,
            unit_width=units.unit_width,
            members=units.members,
            returns_tuple=returns_tuple,
            unit=heads if units.onward else "channel",
        )

    def answered_by(self, consumer: str) -> tuple[str | None, bool]:
        """The outermost module around a consumer that puts out what the consumer does, and whether as one of two; None
        where there is none, or where the tokens of all windows enter the consumer in a row.
        """
        outputs: Any = self.stage.outputs
        names = consumer.split(".") if outputs[consumer].dim() > 2 else []
        for path in (".".join(names[:count]) for count in range(1, len(names))):
            output = outputs.get(path)
            pair = isinstance(output, tuple) and len(output) == 2
            first = output[0] if pair else output
            if isinstance(first, Tensor) and _same(first, outputs[consumer]):
                return path, pair
        return None, False

    @property
    def layer_config(self) -> Any:
        """The configuration that the layer was built from."""
        configs = (getattr(module, "config", None) for module in self.layer.modules())
        return next((config for config in configs if config is not None), self.config.get_text_config())

    def builder(self) -> Build:
        """Layers like this one with other numbers."""
        inside = self.layer_config

        def whole(changed: Any) -> nn.Module:
            return self.more.layers_of(empty_model(_with_inside(self.config, inside, changed)))[self.index]

        return builder(self.layer, inside, self.index, whole)


def _with_inside(config: Any, inside: Any, changed: Any) -> Any:
    """The whole configuration around a changed part."""
    if config is inside:
        return changed
    whole = copy.copy(config)
    for name, value in vars(config).items():
        if value is inside:
            setattr(whole, name, changed)
    return whole


def _same(one: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)


def _without_members(site: Site) -> Site:
    producers = tuple(replace(segment, by_member=False) for segment in site.producers)
    return replace(site, members=1, producers=producers, unit="head")
