"""drop(): whole decoder layers out of a model, chosen by how little they turn the residual stream.

Comes in: a model and text. Goes out: a model with fewer layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimgpt import calibration
from slimgpt.config import DropConfig
from slimgpt.depth.scores import StreamTurns, least_influence, least_run
from slimgpt.depth.shallower import shallower_config
from slimgpt.errors import ConfigError
from slimgpt.machine import devices
from slimgpt.machine.clock import Clock
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.machine.versions import versions
from slimgpt.model.beginning import bos_of
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.checks import check_context, check_rest
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.model.schema import SCHEMA
from slimgpt.output import assembly, record_file
from slimgpt.output.place import Place, merged_bytes
from slimgpt.output.record_file import publish
from slimgpt.output.written import Written
from slimgpt.proof import Witness, alone, prove, run_through, short_window
from slimgpt.proof.memory import proved
from slimgpt.streaming import memory
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.observer import StreamObserver
from slimgpt.streaming.other_way import note_other_way
from slimgpt.streaming.stages import Passage, passage_of
from slimgpt.streaming.stream import ActivationStream

__all__ = ["DropResult", "StreamObserver", "drop"]

CURE = "lower --batch-size or --samples"


class DropResult(Written):
    """The shallower model."""


@dataclass(frozen=True)
class _Job:
    """A run after all its checks."""

    config: DropConfig
    checkpoint: Checkpoint
    tokenizer: Any
    windows_BT: Tensor
    device: torch.device
    stored_dtype: torch.dtype
    num: int
    place: Place
    needs: memory.Needs


def drop(config: DropConfig, observer: StreamObserver | None = None) -> DropResult:
    """Make a shallower model: check everything, measure every layer in one pass, write what stays.

    Raises:
        SlimGPTError: something the user can mend; raised before any work wherever that is possible.
    """
    clock, observer = Clock(), observer or StreamObserver()
    with clock.timed("prepare"):
        job = _prepare(config, observer.said)
    observer.planned(job.needs, job.device)
    with job.place.work(config.force) as folder:
        with clock.timed("measure", job.device):
            turns = _measure(job, folder, observer)
        scores, dropped = _choose(config.method, turns, job.num)
        kept = [index for index in range(len(job.checkpoint.layers)) if index not in dropped]
        observer.stage("writing")
        with clock.timed("write"):
            num_params = _assemble(job, kept, folder)
        with clock.timed("prove", job.device):
            proof = prove(job.place.finished, _witness(job, kept), job.tokenizer, job.needs.more)
        whole = publish(job.place, {**_record(job, scores, dropped, num_params, clock), "proof": proof})
    return DropResult(job.place.out, whole)


def _prepare(config: DropConfig, say: Callable[[str], None]) -> _Job:
    config.check()
    device = devices.pick_device(config.device)
    checkpoint = open_checkpoint(config.model)
    check_context(checkpoint.config, config.seqlen)
    num = _number(config, len(checkpoint.layers))
    stored_dtype = checkpoint.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    shallower_config(checkpoint, range(len(checkpoint.layers)), stored_dtype)  # fails here where none can go
    place = Place(config.out)
    place.check(checkpoint.path, checkpoint.num_params * stored_dtype.itemsize, config.force)
    tokenizer = checkpoint.tokenizer()
    windows_BT = calibration.asked_windows(config, tokenizer, config.seed, say)
    check_rest(checkpoint, windows_BT, stored_dtype)
    batch_size = devices.pick_batch_size(config.batch_size, config.seqlen, device)
    compute_dtype = devices.compute_dtype(checkpoint.dtype, device)
    note_other_way(checkpoint, tokenizer, windows_BT, config.bos, device, compute_dtype, say)
    passage = passage_of(checkpoint, windows_BT, config.seqlen, batch_size, device, compute_dtype, stored_dtype)
    needs = memory.needs(_stages(passage, checkpoint.num_params * stored_dtype.itemsize), device)
    memory.check(needs, device, CURE, place.partial)
    return _Job(config, checkpoint, tokenizer, windows_BT, device, stored_dtype, num, place, needs)


def _stages(passage: Passage, num_bytes: int) -> list[memory.Stage]:
    """The way through the layers, and the folder, which holds no more than the whole model's ``num_bytes``."""
    hidden, layers = passage.size.hidden, dict.fromkeys(passage.size.layers)
    passes = [passage.stage("a layer's pass", layer, hidden, {"a batch": passage.batch(layer)}) for layer in layers]
    stages = [passage.embedding(), *passes, passage.writing(merged_bytes(num_bytes))]
    return proved(stages, num_bytes, passage.written, passage.computed, passage.device)


def _number(config: DropConfig, num_layers: int) -> int:
    """How many layers go.

    Raises:
        ConfigError: none, or all of them.
    """
    asked = f"--layers {config.layers}" if config.layers is not None else f"--ratio {config.ratio}"
    num = config.layers if config.layers is not None else round((config.ratio or 0) * num_layers)
    if not 0 < num < num_layers:
        raise ConfigError(f"{asked} takes {num} of {num_layers} decoder layers: at least one goes and one stays.")
    return num


def _measure(job: _Job, folder: Path, observer: StreamObserver) -> StreamTurns:
    """Run the calibration text through the model, one layer at a time."""
    checkpoint, device = job.checkpoint, job.device
    dtype = devices.compute_dtype(checkpoint.dtype, device)
    batch_size = devices.pick_batch_size(job.config.batch_size, job.config.seqlen, device)
    room = ActivationRoom(checkpoint.dtype, folder / "activations" if job.needs.offloaded else None)
    turns = StreamTurns()
    observer.stage("measuring layers", job.windows_BT.numel() * len(checkpoint.layers))
    with closing(
        ActivationStream(checkpoint, job.windows_BT, device, dtype, batch_size, room, observer.tokens)
    ) as stream:
        for index, layer in enumerate(checkpoint.layers):
            with materialised(layer, read_layer(checkpoint, index, job.stored_dtype), device, dtype):
                turns.begin()
                handle = layer.register_forward_hook(turns.watch)
                try:
                    stream.advance(layer, index)
                finally:
                    handle.remove()
                turns.end()
    return turns


def _choose(method: str, turns: StreamTurns, num: int) -> tuple[list[float], list[int]]:
    """The scores that decide, and the layers that go."""
    if method == "angular":
        distances = turns.angular_distances(num)
        return distances, least_run(distances, num)
    influence = turns.block_influence()
    return influence, least_influence(influence, num)


def _witness(job: _Job, kept: Sequence[int]) -> Witness:
    """What the model says if it skips the layers that go."""
    checkpoint = job.checkpoint
    layers = ((index, read_layer(checkpoint, index, job.stored_dtype)) for index in kept)
    machine = alone(job.device, devices.compute_dtype(checkpoint.dtype, job.device), job.stored_dtype)
    return run_through(checkpoint, short_window(checkpoint, job.tokenizer, job.windows_BT), layers, machine)


def _assemble(job: _Job, kept: Sequence[int], folder: Path) -> int:
    """Put the layers that stay, and all around them, together in the working folder; how many parameters."""
    checkpoint, dtype = job.checkpoint, job.stored_dtype
    gone = set(range(len(checkpoint.layers))) - set(kept)
    lost = sum(parameter.numel() for index in gone for parameter in checkpoint.layers[index].parameters())
    num_params = checkpoint.num_params - lost
    shards = [folder / f"layer-{new:05d}.safetensors" for new in range(len(kept))]
    for new, (old, shard) in enumerate(zip(kept, shards, strict=True)):
        prefix = checkpoint.layer_prefix(new)
        state = read_layer(checkpoint, old, dtype)
        write_tensors(shard, {prefix + name: tensor.contiguous() for name, tensor in state.items()})
    config = shallower_config(checkpoint, kept, dtype)
    size = num_params * dtype.itemsize
    assembly.assemble(job.place.finished, checkpoint, shards, size, dtype, config, job.tokenizer)
    return num_params


def _record(
    job: _Job, scores: Sequence[float], dropped: Sequence[int], num_params: int, clock: Clock
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": "drop",
        **record_file.provenance(job.checkpoint),
        "options": asdict(job.config),
        "bos": bos_of(job.tokenizer, job.config.bos),
        "versions": versions(),
        "parameters": record_file.sizes(job.checkpoint.num_params, num_params, num_params * job.stored_dtype.itemsize),
        "num_layers": {"before": len(job.checkpoint.layers), "after": len(job.checkpoint.layers) - len(dropped)},
        "dropped": list(dropped),
        "scores": list(scores),
        "layout": "per-layer" if assembly.is_per_layer(job.checkpoint.config) else "uniform",
        "cost": record_file.cost(clock, job.device, job.needs.host),
    }
