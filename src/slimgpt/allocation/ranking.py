"""Standardised global ranking: one pass through the dense model says how many units each layer keeps.

The fluctuation of every unit (:mod:`slimgpt.solvers.flap`) is standardised among those of its site, so that layers can
be compared, and the lowest of the whole model go (An et al., https://arxiv.org/abs/2312.11983, section 3.3).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimgpt.allocation.curves import Curve
from slimgpt.allocation.goal import Goal
from slimgpt.allocation.places import Key, Place
from slimgpt.allocation.plan import along
from slimgpt.allocation.shape import Shape
from slimgpt.errors import NumericalError
from slimgpt.machine.processes import Processes
from slimgpt.machine.setup import Machine
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.sites import Kept, Site, SolverOptions, by_part
from slimgpt.sites.projections import weight_OI
from slimgpt.solvers.flap import fluctuation
from slimgpt.solvers.stats import InputStats
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.stream import ActivationStream


@dataclass(frozen=True)
class RankingTask:
    """What a ranking is asked, and with what it works.

    Attributes:
        checkpoint: the dense model.
        windows_BT: int64 calibration windows of the whole run.
        places: what the model has.
        goal: how much has to go.
        machine: where layers run.
        shape: what the layers may look like.
    """

    checkpoint: Checkpoint
    windows_BT: Tensor
    places: Sequence[Place]
    goal: Goal
    machine: Machine
    shape: Shape


def rank(task: RankingTask, stage: Callable[[int, str], None], tokens: Callable[[int], None]) -> dict[Key, Kept]:
    """The units that every place keeps. ``stage(layer, name)`` and ``tokens(count)`` are told how it goes.

    Raises:
        NumericalError: the inputs of a site were not finite.
    """
    checkpoint, machine = task.checkpoint, task.machine
    room = ActivationRoom(checkpoint.dtype, machine.offload_dir, pinned=machine.device.type == "cuda")
    windows_BT = machine.processes.share_of(task.windows_BT)
    scores: dict[str, dict[int, list[float]]] = defaultdict(dict)
    with closing(
        ActivationStream(
            checkpoint, windows_BT, machine.device, machine.compute_dtype, machine.batch_size, room, tokens
        )
    ) as stream:
        for index, layer in enumerate(checkpoint.layers):
            with materialised(
                layer, read_layer(checkpoint, index, machine.stored_dtype), machine.device, machine.compute_dtype
            ):
                for part in by_part(checkpoint.sites(index)):
                    stage(index, f"{part[0].part} ranking")
                    scores[part[0].part][index] = _part_scores(machine.processes, stream, layer, index, part)
                stream.advance(layer, index)
    num_layers = len(checkpoint.layers)
    curves = ranked_curves(scores, num_layers)
    return machine.processes.from_leader(along(task.places, task.goal, curves, task.shape, num_layers))


def _part_scores(
    processes: Processes, stream: ActivationStream, layer: nn.Module, index: int, sites: Sequence[Site]
) -> list[float]:
    """The standardised scores of one part, lowest first; experts, which lose equally many, are averaged."""
    weights = {site.name: weight_OI(layer.get_submodule(site.consumer)) for site in sites}
    stats = {name: InputStats(weight.shape[1], weight.device) for name, weight in weights.items()}
    stream.observe(layer, index, sites, stats)
    found = []
    for site in sites:
        inputs = stats[site.name]
        processes.sum_(inputs.buffers())
        options = SolverOptions(mean_I=inputs.mean_I(), num_tokens=inputs.num_tokens)
        try:
            score_N = fluctuation(weights[site.name], inputs.hessian_II(), site.num_units, options)
        except NumericalError as error:
            raise NumericalError(f"layer {index}, {site.name} ({site.consumer}): {error}") from error
        found.append(standardised(score_N).sort().values)
    return list(torch.stack(found).mean(0).tolist())


def standardised(score_N: Tensor) -> Tensor:
    """Mean 0 and variance 1; all 0 where the scores are equal."""
    centred_N = score_N - score_N.mean()
    spread = centred_N.square().mean().sqrt()
    return centred_N / spread if spread > 0 else centred_N


def ranked_curves(scores: Mapping[str, Mapping[int, Sequence[float]]], num_layers: int) -> dict[str, Curve]:
    """Curves along which one threshold rises over the scores of all layers, each layer's from the lowest up.

    ``scores`` are by part and layer; a layer without a part loses nothing of it.
    """
    pooled = [score for layers in scores.values() for found in layers.values() for score in found]
    low, high = min(pooled), max(pooled) + 1.0

    def curve(layers: Mapping[int, Sequence[float]]) -> Curve:
        return lambda amount: [
            _share_below(layers[index], low + amount * (high - low), high) if index in layers else 0.0
            for index in range(num_layers)
        ]

    return {part: curve(layers) for part, layers in scores.items()}


def _share_below(scores: Sequence[float], threshold: float, high: float) -> float:
    """The share of sorted scores below a threshold, growing evenly from one to the next; 1 at ``high``."""
    place = bisect_right(scores, threshold)
    if place == 0:
        return 0.0
    start, end = scores[place - 1], scores[place] if place < len(scores) else high
    within = min((threshold - start) / (end - start), 1.0)
    return (place - 1 + within) / len(scores)
