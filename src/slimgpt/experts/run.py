"""The loop over layers: watch the experts, choose, write what stays, and carry the text through that."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import torch
from torch import Tensor, nn

from slimgpt.config import PruneConfig
from slimgpt.experts.choice import best
from slimgpt.experts.exact import num_tokens as tried_tokens
from slimgpt.experts.exact import order_of_going
from slimgpt.experts.job import Job, prepare
from slimgpt.experts.record import LayerRecord, record_of
from slimgpt.experts.repair import Refit, last_projection, refit
from slimgpt.experts.repair import num_tokens as fitted_tokens
from slimgpt.experts.rerouting import Rerouting
from slimgpt.experts.scores import EXACT, SCORES
from slimgpt.experts.watching import Routed, RoutingStats, Sample, outputs, watched
from slimgpt.machine.clock import Clock
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.model.stock import open_stock
from slimgpt.output.assembly import add_the_rest, write_weights
from slimgpt.output.record_file import publish
from slimgpt.output.written import Written
from slimgpt.proof import Witness, prove, witness_of
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.observer import StreamObserver
from slimgpt.streaming.stream import ActivationStream


def remove_experts(config: PruneConfig, observer: StreamObserver | None = None) -> Written:
    """Make a mixture with fewer experts: check everything, work layer after layer, write the result atomically.

    Raises:
        SlimGPTError: something the user can mend; raised before any work wherever that is possible.
    """
    clock, observer = Clock(), observer or StreamObserver()
    with clock.timed("prepare"):
        job = prepare(config, observer.said)
    observer.planned(job.needs, job.machine.device)
    with job.place.work(config.force) as folder:
        run = _Run(job, observer, clock, folder)
        layers, witness = run.all_layers()
        observer.stage("writing")
        with clock.timed("write"):
            run.assemble()
        with clock.timed("prove", job.machine.device):
            proof = prove(job.place.finished, witness, job.tokenizer, job.needs.more, opens=open_stock)
        whole = publish(job.place, {**record_of(job, layers, clock), "proof": proof})
    return Written(job.place.out, whole)


class _Run:
    """One pass of the text through the layers."""

    def __init__(self, job: Job, observer: StreamObserver, clock: Clock, folder: Path) -> None:
        self.job = job
        self.machine, self.mixture = job.machine, job.mixture
        self.observer = observer
        self.clock = clock
        self.folder = folder
        self.generator = torch.Generator().manual_seed(job.config.seed)

    def all_layers(self) -> tuple[list[LayerRecord], Witness]:
        """Every layer in order; what became of those with experts, and what the smaller model says in the end."""
        job, num_layers = self.job, len(self.job.checkpoint.layers)
        passes = num_layers + (2 if job.tried.repairs else 1) * len(self.mixture.paths)
        self.observer.stage("experts", job.windows_BT.numel() * passes)
        with closing(self._open_stream()) as self.stream:
            found = [self._layer(index) for index in range(num_layers)]
            with self.clock.timed("prove"):
                witness = witness_of(job.checkpoint, self.stream, job.windows_BT[0], self.machine, job.checkpoint.dtype)
        return [one for one in found if one is not None], witness

    def _open_stream(self) -> ActivationStream:
        job, machine = self.job, self.machine
        offloaded = self.folder / "activations" if job.needs.offloaded else None
        return ActivationStream(
            job.checkpoint,
            job.windows_BT,
            machine.device,
            machine.compute_dtype,
            machine.batch_size,
            ActivationRoom(job.checkpoint.dtype, offloaded),
            self.observer.tokens,
        )

    def _layer(self, index: int) -> LayerRecord | None:
        job, prefix = self.job, self.job.checkpoint.layer_prefix(index)
        with self.clock.timed("load", self.machine.device):
            state = read_layer(job.checkpoint, index, job.written_dtype)
        path = self.mixture.paths.get(index)
        if path is None:
            self._write(index, torch.arange(self.mixture.num_experts), {})
            self._advance(index, state, None)
            return None
        targets = self._sample(index) if job.tried.repairs else None
        before, score_E = self._watch(index, state, path, targets)
        kept_N = best(score_E, job.tried.num_kept, self.mixture.groups)
        state = self.mixture.cut(prefix, state, kept_N)
        renewed: dict[str, Tensor] = {}
        fitted = None
        if targets is not None:
            fitted = self._repair(index, state, path, targets.rows)
            name = last_projection(job.checkpoint.layers[index], path)
            state[name] = fitted.down.to("cpu", state[name].dtype)
            renewed = {prefix + name: state[name]}
        self._write(index, kept_N, renewed)
        after = self._advance(index, state, path)
        return LayerRecord(index, kept_N, score_E, before, after, fitted)

    def _watch(
        self, index: int, state: dict[str, Tensor], path: str, targets: Sample | None
    ) -> tuple[RoutingStats, Tensor]:
        """What the experts of a layer do, and what each is worth; ``targets`` is filled with what they put out."""
        stats, job = RoutingStats.of(self.mixture.num_experts), self.job
        with (
            self.clock.timed("watch", self.machine.device),
            self._filled(job.checkpoint.layers, index, state) as layer,
            ExitStack() as stack,
        ):
            experts = layer.get_submodule(path)
            if targets is not None:
                stack.enter_context(outputs(experts, targets.update))
            if job.config.expert_score != EXACT:
                with watched(experts, stats.update):
                    self.stream.visit(layer, index)
                return stats, SCORES[job.config.expert_score](stats, experts, self.generator)
            sample = Sample(tried_tokens(self.mixture.num_experts), job.windows_BT.numel(), self.generator)
            rerouting = Rerouting(layer, path, self.mixture.dims_inside(job.checkpoint.layer_prefix(index)))
            with watched(experts, stats.count), rerouting.inputs(sample.update):
                self.stream.visit(layer, index)
            with torch.inference_mode():
                return stats, order_of_going(experts, rerouting, sample.rows, job.tried.num_kept, self.mixture.groups)

    def _repair(self, index: int, state: dict[str, Tensor], path: str, target_TD: Tensor) -> Refit:
        """Other last projections for the experts that stay, from where the text is now sent among them."""
        x, expert, gate = (self._sample(index) for _ in range(3))

        def hear(module: nn.Module, routed: Routed) -> None:
            for sample, rows in zip((x, expert, gate), routed, strict=True):
                sample.update(rows)

        with (
            self.clock.timed("repair", self.machine.device),
            self._filled(self.job.tried.smaller, index, state) as layer,
        ):
            experts = layer.get_submodule(path)
            with watched(experts, hear):
                self.stream.visit(layer, index)
            with torch.inference_mode():
                return refit(experts, Routed(x.rows, expert.rows, gate.rows), target_TD)

    def _sample(self, index: int) -> Sample:
        """Of the tokens that a layer is refitted on: the same each time."""
        lots = torch.Generator().manual_seed(self.job.config.seed + index)
        return Sample(fitted_tokens(self.job.checkpoint.width), self.job.windows_BT.numel(), lots)

    def _filled(self, layers: nn.ModuleList, index: int, state: dict[str, Tensor]) -> AbstractContextManager[nn.Module]:
        return materialised(layers[index], state, self.machine.device, self.machine.compute_dtype)

    def _advance(self, index: int, state: dict[str, Tensor], path: str | None) -> RoutingStats:
        """Carry the text through what is left of a layer; what its router does now."""
        stats = RoutingStats.of(self.job.tried.num_kept)
        with (
            self.clock.timed("advance", self.machine.device),
            self._filled(self.job.tried.smaller, index, state) as layer,
        ):
            if path is None:
                self.stream.advance(layer, index)
            else:
                with watched(layer.get_submodule(path), stats.count):
                    self.stream.advance(layer, index)
        return stats

    def _write(self, index: int, kept_N: Tensor, renewed: dict[str, Tensor]) -> None:
        with self.clock.timed("write"):
            write_tensors(self._shard(index), self.job.files.layer(index, kept_N, self.job.written_dtype, renewed))

    def _shard(self, index: int) -> Path:
        return self.folder / f"layer-{index:05d}.safetensors"

    def assemble(self) -> None:
        """Put the layers, and all around them, together in the working folder."""
        job = self.job
        finished = job.place.finished
        finished.mkdir()
        rest = job.files.layer(None, torch.arange(self.mixture.num_experts), job.written_dtype)
        shards = [self._shard(index) for index in range(len(job.checkpoint.layers))]
        total = sum(shard.stat().st_size for shard in shards) + sum(tensor.nbytes for tensor in rest.values())
        write_weights(finished, rest, shards, total, {})
        add_the_rest(finished, job.checkpoint, job.tried.output_config, job.tokenizer)
