"""A family that no file describes: what detection has found in a model's class, as any other family says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING

from slimgpt.arch.family import Family
from slimgpt.detection.building import empty_model
from slimgpt.detection.detect import detect
from slimgpt.detection.findings import Detected, LayerFindings, Place, Refusal
from slimgpt.detection.rehearsal import own_sizes
from slimgpt.errors import ConfigError, ModelError, shown
from slimgpt.modeling_by_path import LAYERS, PREFIX
from slimgpt.sites import Kept, Segment, Site

KEPT = "kept"
"""What a layer's own sizes say for us, beside what the modelling file reads: part -> units, or units and members."""


@dataclass(frozen=True)
class DetectedLayer:
    """A layer as its class makes it, and what is left of it.

    Attributes:
        dense: the layer, on the meta device.
        found: what could go in it.
        kept: by part, what it still has.
    """

    dense: nn.Module
    found: LayerFindings
    kept: Mapping[str, Kept]


def detected_family(config: Any) -> Family:
    """The family of a model whose layers no file describes.

    Raises:
        ModelError: transformers cannot run its layers one at a time, or nothing in them can be proved to be separable.
    """
    dense = dense_config(config)
    found, layers = _found(json.dumps(_settings(dense), sort_keys=True, default=str))
    _require_use(dense.model_type, found)

    def layer_config(config: Any, index: int) -> DetectedLayer:
        kept = kept_in(config, index, found.layers[index])
        return DetectedLayer(layers[index], found.layers[index], kept)

    return Family(
        model_type=dense.model_type,
        layers=found.path,
        sites=sites,
        resized=_resized,
        stock_config=_no_stock_config(dense.model_type),
        pruned={},
        packs=False,  # whether its masks look at positions is not known
        layer_config=layer_config,
        own_sizes=_own_sizes,
        stays=lambda layer: {refusal.path: refusal.reason for refusal in layer.found.refusals},
        returns=found.returns,
        blocks_go=False,
        stream_width=found.width,
    )


def dense_config(config: Any) -> Any:
    """The stock configuration of the model that a smaller one comes from; of a stock one, a copy."""
    return _made(_settings(config))


def _made(settings: dict[str, Any]) -> Any:
    return CONFIG_MAPPING[settings.pop("model_type").removeprefix(PREFIX)](**settings)


def _settings(config: Any) -> dict[str, Any]:
    return {
        key: value
        for key, value in config.to_dict().items()
        if key not in (LAYERS, "auto_map", "transformers_version", "dtype") and not key.startswith("_")
    }


@lru_cache(maxsize=4)
def _found(settings: str) -> tuple[Detected, nn.ModuleList]:
    """What there is in a model, and its layers without weights. A run opens its model several times."""
    config = _made(json.loads(settings))
    found = detect(config)
    layers = empty_model(config).get_submodule(found.path)
    assert isinstance(layers, nn.ModuleList)
    return replace(found, layers=tuple(map(_apart, found.layers))), layers.to("meta")


def _apart(found: LayerFindings) -> LayerFindings:
    """Without places that are cut from one projection with another place: a cut of the one would move the other."""
    places: list[Place] = []
    refusals = list(found.refusals)
    for place in found.places:
        paths = {segment.path for segment in place.site.producers}
        other = next((one for one in places if paths & {segment.path for segment in one.site.producers}), None)
        if other is None:
            places.append(place)
        else:
            refusals.append(Refusal(place.site.consumer, f"its units lie in one projection with {other.site.name}"))
    return LayerFindings(tuple(places), tuple(refusals))


def _require_use(model_type: str, found: Detected) -> None:
    """Raise ModelError where there is nothing that could be done with the model."""
    why = found.not_streamed
    if why is None and not any(layer.places for layer in found.layers):
        reasons = dict.fromkeys(f"{one.path}: {one.reason}" for layer in found.layers for one in layer.refusals)
        why = "; ".join(reasons) or "no layer has a projection whose inputs are independent of each other"
    if why is not None:
        raise ModelError(f"model_type {shown(model_type)}: nothing in it can be pruned ({why}).")


def kept_in(config: Any, index: int, found: LayerFindings) -> dict[str, Kept]:
    """What a layer still has, by part.

    Raises:
        ModelError: the configuration says something that cannot be.
    """
    whole = {site.part: Kept(site.num_units, site.members) for site in found.sites}
    stored = getattr(config, LAYERS, None)
    if stored is None:
        return whole
    try:
        kept = {part: Kept(*map(int, counts)) for part, counts in stored["layers"][index][KEPT].items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"config.json is not valid: {LAYERS} does not say what layer {index} keeps.") from error
    if set(kept) != set(whole) or any(not _within(kept[part], whole[part]) for part in whole):
        raise ModelError(f"config.json is not valid: {LAYERS} cannot be {shown(stored['layers'][index][KEPT])}.")
    return kept


def _within(kept: Kept, whole: Kept) -> bool:
    return 0 < kept.units <= whole.units and 0 < (kept.members or 0) <= (whole.members or 0)


def sites(layer: DetectedLayer) -> tuple[Site, ...]:
    """What can go in a layer as it is now."""
    return tuple(_narrowed(site, layer) for site in layer.found.sites)


def _narrowed(site: Site, layer: DetectedLayer) -> Site:
    """A site of the dense layer in what is left of it."""
    units, members = layer.kept[site.part]
    assert members is not None
    return replace(
        site,
        num_units=units,
        unit_width=site.unit_width * members // site.members,
        members=members,
        producers=tuple(
            replace(one, rows_per_unit=_rows_per_unit(one, site, members), offset=one.offset - _lost_before(one, layer))
            for one in site.producers
        ),
    )


def _rows_per_unit(segment: Segment, site: Site, members: int) -> int:
    return segment.rows_per_unit * members // site.members if segment.by_member else segment.rows_per_unit


def _lost_before(segment: Segment, layer: DetectedLayer) -> int:
    """Rows of the same projection that are gone and lay before a segment."""
    lost = 0
    for site in layer.found.sites:
        units, members = layer.kept[site.part]
        for other in site.producers:
            if other.path == segment.path and other.offset < segment.offset:
                rows_left = units * _rows_per_unit(other, site, members or site.members)
                lost += site.num_units * other.rows_per_unit - rows_left
    return lost


def _total(layer: DetectedLayer, kept: Mapping[str, Kept]) -> dict[str, Kept]:
    """What every part keeps, with the number of members said; parts that are not named keep all they have."""
    said = {
        part: Kept(units, layer.kept[part].members if members is None else members)
        for part, (units, members) in kept.items()
    }
    return {**layer.kept, **said}


def _resized(layer: DetectedLayer, kept: Mapping[str, Kept]) -> dict[str, Any]:
    """For people: units of each part, and members where there are several."""
    sizes: dict[str, Any] = {}
    for site in layer.found.sites:
        units, members = _total(layer, kept)[site.part]
        sizes[f"{site.part} {site.unit}s"] = units
        if site.members > 1:
            sizes[f"{site.part} queries in each"] = members
    return sizes


def _own_sizes(layer: DetectedLayer, kept: Mapping[str, Kept]) -> dict[str, Any]:
    """What the modelling file gives a layer, and what we read there again."""
    total = _total(layer, kept)
    cuts = [(place.site, place.growth, total[place.site.part]) for place in layer.found.places]
    return {**own_sizes(layer.dense, cuts), KEPT: {part: list(counts) for part, counts in total.items()}}


def _no_stock_config(model_type: str) -> Any:
    def refuse(settings: Mapping[str, Any]) -> Any:
        raise ConfigError(
            f"{model_type} is not one of the tested families, for which alone it is known how a stock class is told of "
            "other sizes: use --layout per-layer."
        )

    return refuse
