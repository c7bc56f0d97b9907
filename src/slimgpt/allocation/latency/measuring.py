"""Measures what layers cost by width, on the device and in the dtype that the model will run in.

Not one block alone, which would sit in the caches of the processor, but the whole model is timed, with random weights:
as it is, with all its attentions narrower, with all its FFNs narrower. What a width saves in one layer is the
difference, divided by the layers. Models of all widths take turns, and are compared with the dense one of the same
round, so that a machine that is slow for a while is slow for all of them. They share one set of weights: a narrower
matrix is the beginning of the wider one's memory.

Of a model that is too large for that, only the first layers are there; what the others cost follows from half as many.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimgpt.allocation.latency.table import WORKLOADS, LatencyTable
from slimgpt.allocation.measures import NS_PER_MS, ModelTimes, PartTimes
from slimgpt.allocation.places import Place, layered
from slimgpt.allocation.places import whole as whole_plan
from slimgpt.allocation.plan import places_of
from slimgpt.machine import devices
from slimgpt.machine.timing import Load, Measured, Repeat
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.pruned_config import pruned_config
from slimgpt.model.skeleton import empty_model
from slimgpt.sites import Kept

LEAST_ROUNDS, MOST_ROUNDS = 5, 25
ENOUGH_S = 60.0  # no more rounds are begun after so many seconds
NEW_TOKENS = 5  # four of them are timed
GRID_STEPS = 8
WIDTH_MULTIPLE = 8
LAYER_BYTES = 1 << 30  # layers beyond this are extrapolated
SPREAD = 0.02  # of the random weights


def measure(
    checkpoint: Checkpoint, device: torch.device, stored_dtype: torch.dtype, prompt_tokens: int
) -> LatencyTable:
    """Time the model at a grid of widths. Takes a minute or two for a small model on a CPU.

    ``stored_dtype`` is that of the written weights, which decides in which dtype they are run.
    """
    dtype = devices.compute_dtype(stored_dtype, device)
    stacks = _Stacks(checkpoint, device, dtype, Load(1, prompt_tokens, NEW_TOKENS, seed=0))
    seconds, num_rounds = _in_turns([stacks.stack(point) for point in stacks.points()])
    measured = {
        **conditions(device, dtype, prompt_tokens),
        "layers": stacks.depth,
        "rounds": num_rounds,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    times = {name: _times(stacks, seconds[name]) for name in WORKLOADS}
    return LatencyTable(shape(checkpoint), measured, times)


def shape(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a model's times depend on."""
    widest = _widest(checkpoint)
    return {
        "family": checkpoint.family.model_type,
        "parameters": checkpoint.num_params,
        "layers": len(checkpoint.layers),
        "hidden_size": checkpoint.width,
        **{f"{part}_units": place.num_units for part, place in widest.items()},
    }


def conditions(device: torch.device, dtype: torch.dtype, prompt_tokens: int) -> dict[str, Any]:
    """What else they depend on."""
    return {
        "device": devices.device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": str(torch.__version__),
        "prompt_tokens": prompt_tokens,
        "batch_size": 1,
    }


def _widest(checkpoint: Checkpoint) -> dict[str, Place]:
    """The largest place of each part of a layer."""
    widest: dict[str, Place] = {}
    for place in layered(places_of(checkpoint)):
        if place.part not in widest or place.num_units > widest[place.part].num_units:
            widest[place.part] = place
    return widest


class _Point(NamedTuple):
    """Units of each part of all layers, and how many layers."""

    sizes: tuple[tuple[str, int], ...]
    depth: int


class _Stacks:
    """Models that are alike but for the width of their layers, over one set of weights.

    Args:
        checkpoint: the model whose shape they have.
        device: where they run.
        dtype: of their weights.
        work: what is timed.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, work: Load) -> None:
        self.checkpoint, self._device, self._dtype, self._work = checkpoint, device, dtype, work
        self.num_layers, self.widest = len(checkpoint.layers), _widest(checkpoint)
        layer_params = max(sum(p.numel() for p in layer.parameters()) for layer in checkpoint.layers)
        fitting = max(2, LAYER_BYTES // (layer_params * dtype.itemsize))
        self.depth = min(self.num_layers, fitting)
        self._memory: dict[str, Tensor] = {}

    def points(self) -> list[_Point]:
        """Sizes of all layers and number of layers: the dense model first, then half of it if it is cut short."""
        shorter = [self.point(depth=self.depth // 2)] if self.depth < self.num_layers else []
        narrower = [self.point({part: units}) for part in self.widest for units in self.grid(part)[:-1]]
        return [self.point(), *shorter, *narrower]

    def point(self, sizes: Mapping[str, int] | None = None, depth: int | None = None) -> _Point:
        """Layers as wide as the widest but for ``sizes``."""
        units = {part: place.num_units for part, place in self.widest.items()} | dict(sizes or {})
        return _Point(tuple(units.items()), self.depth if depth is None else depth)

    def grid(self, part: str) -> list[int]:
        """Widths to time, ascending to the widest; of FFNs those that kernels like."""
        place = self.widest[part]
        most, least, multiple = place.num_units, place.narrowest(1).units, WIDTH_MULTIPLE if place.fine else 1
        steps = (multiple * round(most * step / GRID_STEPS / multiple) for step in range(1, GRID_STEPS))
        return sorted({least, *(width for width in steps if least < width < most), most})

    def stack(self, point: _Point) -> Measured:
        """A model of these sizes, ready to be timed."""
        kept = [self._kept(index, dict(point.sizes)) for index in range(self.num_layers)]
        model: Any = empty_model(pruned_config(self.checkpoint, kept, "per-layer", self._dtype))
        layers = model.get_submodule(self.checkpoint.family.layers)
        del layers[point.depth :]
        self._fill_(model)
        return Measured(model.to(self._device), self._work)

    def _kept(self, index: int, sizes: Mapping[str, int]) -> dict[str, Kept]:
        """All layers are alike, but for the parts that they lack."""
        return {site.part: Kept(sizes[site.part]) for site in self.checkpoint.sites(index)}

    def _fill_(self, model: nn.Module) -> None:
        """Give a model weights: the beginnings of those of the dense model, which comes here first."""
        state = model.state_dict()
        first_names: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            own = first_names.setdefault(id(parameter), name)  # tied parameters stay one
            if own not in self._memory:
                self._memory[own] = SPREAD * torch.randn(parameter.numel(), device=self._device, dtype=self._dtype)
            state[name] = self._memory[own][: parameter.numel()].view(parameter.shape)
        model.load_state_dict(state, assign=True)
        model.requires_grad_(False)


def _in_turns(models: Sequence[Measured]) -> tuple[dict[str, list[float]], int]:
    """Seconds of each workload, model by model: the median ratio to the first model, times its median. And the rounds
    that this is of.
    """
    rounds: list[list[Repeat]] = []
    begin = time.perf_counter()
    while len(rounds) <= LEAST_ROUNDS or (len(rounds) <= MOST_ROUNDS and time.perf_counter() - begin < ENOUGH_S):
        rounds.append([model.repeat() for model in models])
    del rounds[0]  # it warms up
    steps = NEW_TOKENS - 1
    seconds = {
        "decode": [[repeat.decode_s / steps for repeat in turn] for turn in rounds],
        "prefill": [[repeat.prefill_s for repeat in turn] for turn in rounds],
    }
    return {name: _medians(found) for name, found in seconds.items()}, len(rounds)


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    first = statistics.median(turn[0] for turn in rounds)
    return [first * statistics.median(turn[i] / turn[0] for turn in rounds) for i in range(len(rounds[0]))]


def _times(stacks: _Stacks, seconds: Sequence[float]) -> ModelTimes:
    """Curves of one layer, and what is left of the dense model's time."""
    by_point = dict(zip(stacks.points(), seconds, strict=True))
    dense = by_point[stacks.point()]
    whole = dense
    if stacks.depth < stacks.num_layers:
        half = stacks.depth // 2
        layer = (dense - by_point[stacks.point(depth=half)]) / (stacks.depth - half)
        whole += (stacks.num_layers - stacks.depth) * layer
    parts = {}
    for part in stacks.widest:
        grid = stacks.grid(part)
        rising = never_falling(by_point[stacks.point({part: units})] / stacks.depth for units in grid)
        parts[part] = PartTimes(tuple(grid), tuple(round((s - rising[0]) * 1000 * NS_PER_MS) for s in rising))
    varying = ModelTimes(0, parts).of_model(whole_plan(places_of(stacks.checkpoint)))
    return ModelTimes(max(0, round(whole * 1000 * NS_PER_MS) - varying), parts)


def never_falling(values: Iterable[float]) -> list[float]:
    """The nearest sequence, in squares, that never falls: neighbours in the wrong order get their mean."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and statistics.fmean(blocks[-2]) > statistics.fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [statistics.fmean(block) for block in blocks for _ in block]
