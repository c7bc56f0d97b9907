"""sparsify(): zeros in the projections of the decoder layers, by a method of :mod:`slimgpt.sparsity.masks`.

options --job--> checked job --ratios--> sparsity of every projection --rounds--> layers --> folder, record, card

Comes in: a model and text. Goes out: the same shapes with zeros in them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from slimgpt.config import SparsifyConfig
from slimgpt.machine.clock import Clock
from slimgpt.model.layer_loading import read_layer
from slimgpt.output import assembly
from slimgpt.output.record_file import publish
from slimgpt.output.written import Written
from slimgpt.proof import Witness, alone, prove, run_through, short_window
from slimgpt.sites.projections import projections, weight_OI
from slimgpt.sparsity import record
from slimgpt.sparsity.job import Job, prepare
from slimgpt.sparsity.ratios import along_curve, fractions, owl
from slimgpt.sparsity.rounds import Rounds
from slimgpt.sparsity.threshold import smallest_per_matrix
from slimgpt.streaming.observer import StreamObserver

__all__ = ["SparsifyResult", "StreamObserver", "sparsify"]


class SparsifyResult(Written):
    """The sparse model."""


def sparsify(config: SparsifyConfig, observer: StreamObserver | None = None) -> SparsifyResult:
    """Make a sparse model: check everything, go through the layers as often as the schedule says, write atomically.

    Raises:
        SlimGPTError: something the user can mend; raised before any work wherever that is possible.
    """
    clock, observer = Clock(), observer or StreamObserver()
    with clock.timed("prepare"):
        job = prepare(config, observer.said)
    observer.planned(job.needs, job.device)
    with job.place.work(config.force) as folder:
        rounds = Rounds(job, folder, observer, clock)
        final = _sparsities(job, rounds)
        steps = fractions(config.schedule, config.rounds)
        for number, step in enumerate(steps):
            name = f"round {number + 1} of {len(steps)}" if len(steps) > 1 else config.method
            targets = [{path: value * step for path, value in layer.items()} for layer in final]
            layers = rounds.carry_out(name, targets, first=number == 0)
        observer.stage("writing")
        with clock.timed("write"):
            _assemble(job, rounds)
        with clock.timed("prove"):
            proof = prove(job.place.finished, _witness(job, rounds), job.tokenizer, job.needs.more)
        whole = publish(job.place, {**record.build(job, final, layers, clock), "proof": proof})
    return SparsifyResult(job.place.out, whole)


def _witness(job: Job, rounds: Rounds) -> Witness:
    """What the layers say that the last round has written."""
    layers = ((index, rounds.written(index)) for index in range(len(job.checkpoint.layers)))
    ids_T = short_window(job.checkpoint, job.tokenizer, job.windows_BT)
    return run_through(job.checkpoint, ids_T, layers, alone(job.device, job.compute_dtype, job.stored_dtype))


def _sparsities(job: Job, rounds: Rounds) -> list[Mapping[str, float]]:
    """Zeros' share that every projection is to have in the end, by layer and path."""
    sizes = [_sizes(job, index) for index in range(len(job.checkpoint.layers))]
    if job.config.scope == "global":
        num = round(job.config.target * sum(sum(layer.values()) for layer in sizes))
        counts = smallest_per_matrix(lambda index: _weights(job, index), len(sizes), num)
        return [{path: counts[index][path] / size for path, size in layer.items()} for index, layer in enumerate(sizes)]
    by_layer = _by_layer(job, rounds, [sum(layer.values()) for layer in sizes])
    return [dict.fromkeys(layer, sparsity) for layer, sparsity in zip(sizes, by_layer, strict=True)]


def _by_layer(job: Job, rounds: Rounds, sizes: list[int]) -> list[float]:
    config = job.config
    if config.layer_ratios == "owl":
        return owl(config.target, sizes, rounds.outliers())
    return along_curve(config.layer_ratios, config.target, sizes)


def _sizes(job: Job, index: int) -> dict[str, int]:
    return {path: weight_OI(module).numel() for path, module in projections(job.checkpoint.layers[index]).items()}


def _weights(job: Job, index: int) -> dict[str, Tensor]:
    """The projections of a layer as they will be read when it is their turn."""
    state = read_layer(job.checkpoint, index, job.stored_dtype)
    return {path: state[f"{path}.weight"] for path in projections(job.checkpoint.layers[index])}


def _assemble(job: Job, rounds: Rounds) -> None:
    """Put weights, configuration and tokenizer together in the working folder."""
    checkpoint = job.checkpoint
    shards = [rounds.shard(index) for index in range(len(checkpoint.layers))]
    config = checkpoint.config
    config.dtype = job.stored_dtype
    assembly.assemble(job.place.finished, checkpoint, shards, job.num_bytes, job.stored_dtype, config, job.tokenizer)
