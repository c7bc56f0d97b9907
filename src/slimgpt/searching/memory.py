"""What a search takes, by stage: the plan of the sweep, of the curves, and of trials."""

from __future__ import annotations

from dataclasses import replace

from slimgpt.searching.drawn import LOGITS_BYTES
from slimgpt.searching.trial import KEPT_TOKENS
from slimgpt.solvers.memory import FLOAT32, FLOAT64, eliminating
from slimgpt.streaming.memory import Stage
from slimgpt.streaming.sizes import LayerSize
from slimgpt.streaming.stages import Passage

BACKWARD = (6, 12)  # tensors of a gated FFN's width and of the residual stream's: saved, and their gradients
BACKWARD_SCORES = 5
LOGITS = 4  # of what is handled at a time: logits, probabilities, and distribution functions in float64
TARGET_BYTES = 6  # float16 and int32


def sweeping(passage: Passage, num_tokens: int) -> list[Stage]:
    """A pass forward and back over ``num_tokens`` of this process, and the curves."""
    size, computed = passage.size, passage.computed
    searched = replace(_of(passage, num_tokens), written=computed, carried=computed)
    width = size.hidden * (len(size.layers) + 1)
    head = {"embeddings and head": size.read(size.rest, computed), "logits": LOGITS * LOGITS_BYTES}
    stages = [Stage("the search's head", head, activations=searched.kept(width))]
    for layer in dict.fromkeys(size.layers):
        sums = _sums(layer)
        wide, narrow = BACKWARD
        batch = searched.batch(layer, wide, narrow, BACKWARD_SCORES)
        layers = {"statistics": sums}
        stages += [
            _at(searched, "the search's backward pass", layer, width, {**layers, "a batch": batch}),
            _at(searched, "the search's curves", layer, width, {**layers, "solver": _curves(layer)}),
        ]
    return stages


def _of(passage: Passage, num_tokens: int) -> Passage:
    """The same of so many tokens only."""
    return replace(passage, tokens=num_tokens, batch_tokens=min(passage.batch_tokens, num_tokens))


def _at(passage: Passage, name: str, layer: LayerSize, width: int, device: dict[str, int]) -> Stage:
    """One layer in memory, read as it is computed."""
    return Stage(name, {"a layer": layer.params * passage.computed.itemsize, **device}, activations=passage.kept(width))


def _sums(layer: LayerSize) -> int:
    """Moments of inputs and of gradients at all sites of a layer."""
    return FLOAT32 * sum(site.num_inputs**2 + site.num_outputs**2 for site in layer.sites)


def _curves(layer: LayerSize) -> int:
    """Of the widest site, with its metric in two precisions and what members leave of its Hessian."""
    return max(
        (
            eliminating(site.num_outputs, site.num_inputs) + (FLOAT32 + FLOAT64) * site.num_outputs**2
            for site in layer.sites
        ),
        default=0,
    )


def trying(passage: Passage, num_tokens: int, ratio: float) -> list[Stage]:
    """Trials on ``num_tokens``: layers of two allocations, and what enters each of them."""
    size, computed = passage.size, passage.computed
    widest = max(size.layers, key=lambda layer: layer.widest)
    layers = 2 * (1 - ratio) * size.all_layers + widest.params
    inputs = num_tokens * size.hidden * (2 * len(size.layers) + 2) * computed.itemsize
    targets = num_tokens * KEPT_TOKENS * TARGET_BYTES
    logits = passage.seqlen * size.vocabulary * computed.itemsize  # of one window
    tried = {
        "layers": round(layers * computed.itemsize),
        "what enters them": inputs + targets,
        "embeddings and head": size.read(size.rest, computed),
    }
    solver = max(
        (eliminating(site.num_outputs, site.num_inputs) + FLOAT32 * site.num_inputs**2 for site in widest.sites),
        default=0,
    )
    batch = _of(passage, num_tokens).batch(widest)
    return [Stage("the search's trials", {**tried, "a batch, logits or the solver": max(logits, solver, batch)})]
