"""Detection from end to end: a configuration comes in, sites that hold come out, and a reason for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from slimgpt.detection.building import empty_model
from slimgpt.detection.decoder import Decoder, find_decoder
from slimgpt.detection.findings import Detected, LayerFindings, Place
from slimgpt.detection.growth import block_of
from slimgpt.detection.hollow import hollow_
from slimgpt.detection.look import Look
from slimgpt.detection.signature import owned_by_one, signatures
from slimgpt.detection.whole import holding_together, reads_ahead, why_not_streamed
from slimgpt.errors import ModelError

FEW_TOKENS = 2  # of a window, to see what reaches what
TOKENS = 8  # of a window, to try what was found


def detect(config: Any) -> Detected:
    """Decoder layers and sites of the model that a configuration describes.

    Raises:
        ModelError: there is no such model in transformers, it does not run on text alone, or it has no decoder layers.
    """
    model = empty_model(config)
    hollow_(model)
    few, more = (find_decoder(model, _ids(1, tokens)) for tokens in (FEW_TOKENS, TOKENS))
    ids_BT = _ids(2, TOKENS)
    if reads_ahead(model, ids_BT):
        raise ModelError(f"{type(model).__name__} reads later tokens before earlier ones: it does not write text.")
    not_streamed = why_not_streamed(model, more, ids_BT)
    found = holding_together(model, more, _look(model, config, few, more), ids_BT)
    if model._supports_sdpa:  # the fused attention takes other ways through the code
        model.set_attn_implementation("sdpa")
        found = holding_together(model, more, found, ids_BT)
    return Detected(
        path=more.path,
        layers=_named(found),
        width=more.calls[0].hidden.shape[-1],
        returns=more.calls[0].returns,
        named=more.calls[0].named,
        not_streamed=not_streamed,
    )


def _ids(windows: int, tokens: int) -> torch.Tensor:
    return 10 + torch.arange(windows * tokens).view(windows, tokens)


def _look(model: Any, config: Any, few: Decoder, more: Decoder) -> list[LayerFindings]:
    """Every layer alone; layers that are alike are looked at once, and what was found is tried in each."""
    layers = more.layers_of(model)
    owned = owned_by_one(layers)
    known: dict[Any, LayerFindings] = {}
    found = []
    for index, signature in enumerate(signatures(layers)):
        look = Look(layers[index], index, config, few, more, owned)
        found.append(look.confirmed(known[signature]) if signature in known else look.findings())
        known.setdefault(signature, found[-1])
    return found


def _named(found: Sequence[LayerFindings]) -> tuple[LayerFindings, ...]:
    """Places by their kind: the first consumer of a kind by that alone, others by their block too."""
    names: dict[str, str] = {}
    for place in (place for of_layer in found for place in of_layer.places):
        site = place.site
        taken = set(names.values())
        if site.consumer not in names:
            block = block_of(site).rpartition(".")[2] or site.consumer
            names[site.consumer] = site.name if site.name not in taken else f"{site.name}-{block}"

    def named(place: Place) -> Place:
        return replace(place, site=replace(place.site, name=names[place.site.consumer]))

    return tuple(replace(of_layer, places=tuple(map(named, of_layer.places))) for of_layer in found)
