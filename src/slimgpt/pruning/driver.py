"""prune(): the loop and nothing else. No mathematics, no file formats, no model names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any

from torch import Tensor, nn

from slimgpt.allocation.ranking import rank
from slimgpt.config import PruneConfig
from slimgpt.errors import NumericalError
from slimgpt.machine import host
from slimgpt.machine.clock import Clock
from slimgpt.model import surgery
from slimgpt.model.config_by_path import state_sizes_
from slimgpt.model.embeddings_and_head import head
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.model.weights import require_finite
from slimgpt.proof import Witness, witness_of
from slimgpt.pruning import record
from slimgpt.pruning.finish import finish
from slimgpt.pruning.job import Job
from slimgpt.pruning.observer import Observer, PruneResult
from slimgpt.pruning.prepare import config_of_plan, prepare
from slimgpt.searching import find_allocation, read_metric
from slimgpt.sites import Removal, Site, SolverOptions, by_part
from slimgpt.sites.projections import weight_OI
from slimgpt.solvers import SOLVERS
from slimgpt.solvers.correction import correct
from slimgpt.solvers.members import solve_site
from slimgpt.solvers.stats import GapStats, InputStats
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.conveyor import to_host
from slimgpt.streaming.prefetch import Prefetcher
from slimgpt.streaming.stream import ActivationStream, Targets
from slimgpt.streaming.write_behind import WriteBehind


def prune(config: PruneConfig, observer: Observer | None = None) -> PruneResult:
    """Make a smaller model: check everything, prune layer after layer, write the result atomically.

    Raises:
        SlimGPTError: something the user can mend; raised before any work wherever that is possible.
    """
    clock, observer = Clock(), observer or Observer()
    with clock.timed("prepare"):
        job = prepare(config, observer.preparing, observer.said)
    with closing(job.place):
        whole = job.finished or _carry_out(job, observer, clock)
    job.machine.processes.leave()
    return PruneResult(job.place.out, whole)


def _carry_out(job: Job, observer: Observer, clock: Clock) -> dict[str, Any]:
    """Prune all layers and write the output; its record (empty for those who only helped)."""
    observer = observer if job.machine.processes.leads else Observer()
    with job.place.full_disk_named(job.plan.bytes_after):
        try:
            if job.finds:
                job = _with_found_plan(job, observer, clock)
            observer.planned(job)
            done, witness = _Run(job, observer, clock).all_records()
        except NumericalError:
            if job.machine.processes.leads:
                job.journal.discard()  # the same run would fail again, and what cures it makes it another run
            raise
        observer.writing()
        job.machine.processes.meet()  # nobody has anything in the working folder any more
        return finish(job, done, witness, clock) if job.machine.processes.leads else {}


def _with_found_plan(job: Job, observer: Observer, clock: Clock) -> Job:
    """The job with the plan that a search or a ranking finds."""
    observer.searching(job)
    with clock.timed("search", job.machine.device):
        if job.search is not None:
            kept = find_allocation(job.search, observer.stage, observer.tokens)
        else:
            assert job.ranking is not None
            kept = rank(job.ranking, observer.stage, observer.tokens)
    plan = job.plan.with_kept(kept)
    config = config_of_plan(job.checkpoint, plan, job.config.layout, job.machine.stored_dtype)
    return dataclasses.replace(job, plan=plan, output_config=config)


class _Run:
    """The loop over layers, and the two things a layer can be: in the journal already, or to be pruned."""

    def __init__(self, job: Job, observer: Observer, clock: Clock) -> None:
        self.job = job
        self.machine, self.processes = job.machine, job.machine.processes
        self.observer = observer
        self.clock = clock
        self.solve = SOLVERS[job.config.solver]
        self.writer = WriteBehind()
        self.dense: ActivationStream | None = None

    def all_records(self) -> tuple[list[dict[str, Any]], Witness]:
        """Prune every layer in order, and then what lies behind them; the journal's records, and what the pruned model
        says in the end.
        """
        job, num_layers = self.job, len(self.job.checkpoint.layers)
        dtype, pinned = self.machine.stored_dtype, self.machine.device.type == "cuda"
        states = Prefetcher(lambda index: read_layer(job.checkpoint, index, dtype, pinned), num_layers)
        with closing(states), closing(self.writer), ExitStack() as streams:
            with self.clock.timed("embed"):
                self.stream = streams.enter_context(closing(self._open_stream()))
                if job.config.correct_errors:
                    self.dense = streams.enter_context(closing(self._open_stream()))
            done = [self._beside() if index is None else self._layer(index, states) for index in job.indices]
            with self.clock.timed("write"):
                self.writer.finish()
            with self.clock.timed("prove"):
                return done, self._witness()

    def _witness(self) -> Witness:
        job = self.job
        first_T = self.processes.share_of(job.windows_BT)[0]
        cut = job.journal.weights(None) if None in job.indices and self.processes.leads else {}
        return witness_of(job.checkpoint, self.stream, first_T, self.machine, job.checkpoint.dtype, cut)

    def _open_stream(self) -> ActivationStream:
        job = self.job
        return ActivationStream(
            job.checkpoint,
            self.processes.share_of(job.windows_BT),
            self.machine.device,
            self.machine.compute_dtype,
            self.machine.batch_size,
            ActivationRoom(job.checkpoint.dtype, self.machine.offload_dir, pinned=self.machine.device.type == "cuda"),
            self.observer.tokens,
        )

    def _layer(self, index: int, states: Prefetcher[dict[str, Tensor]]) -> dict[str, Any]:
        job = self.job
        sites = job.checkpoint.sites(index)
        parts = by_part(sites)
        done = self.processes.from_leader(job.journal.record(index) if self.processes.leads else None)
        with ExitStack() as stack:
            with self.clock.timed("load", self.machine.device):
                layer = stack.enter_context(
                    materialised(
                        job.checkpoint.layers[index], states.get(index), self.machine.device, self.machine.compute_dtype
                    )
                )
            targets = self._targets(layer, index)
            if done is None:
                removals: dict[str, Removal] = {}
                for part in parts:
                    removals |= self._prune(layer, index, part, targets)
                done = self._record(layer, index, sites, removals)
            else:
                for part in parts:
                    self._replay(layer, index, part, done)
            with self._stage(index, "advance"):
                self.stream.advance(layer, index)
        return done

    def _beside(self) -> dict[str, Any]:
        """Prune what lies behind the layers; nothing comes after it that would have to see it replayed."""
        job, model = self.job, self.job.checkpoint.skeleton
        done = self.processes.from_leader(job.journal.record(None) if self.processes.leads else None)
        if done is not None:
            return done
        sites, removals = job.checkpoint.sites(None), dict[str, Removal]()
        with head(job.checkpoint, self.machine.device, self.machine.compute_dtype) as logits:
            for part in by_part(sites):
                removals |= self._prune(model, None, part, None, logits)
            return self._record(model, None, sites, removals)

    def _targets(self, layer: nn.Module, index: int) -> Targets | None:
        """What the dense model has behind the layer's blocks, where earlier errors are to be corrected."""
        if self.dense is None:
            return None
        with self._stage(index, "dense path"):
            return self.dense.advance_dense(layer, index, self.job.checkpoint.sites(index))

    def _record(
        self, layer: nn.Module, index: int | None, sites: Sequence[Site], removals: dict[str, Removal]
    ) -> dict[str, Any]:
        """Bring a pruned layer to disk, beside the next one's work (the leader does; the others get on)."""
        whole = record.layer(index, sites, removals)
        if self.processes.leads:
            with self.clock.timed("write"):
                weights = record.weights(self.job, layer, index, sites)
                self.writer.start(lambda: self.job.journal.write(index, weights, whole))
        return whole

    def _prune(
        self,
        layer: nn.Module,
        index: int | None,
        sites: Sequence[Site],
        targets: Targets | None,
        logits: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Removal]:
        """Observe what enters the consumers of one part of the layer, choose and repair, cut.

        For what lies behind the layers ``index`` is None, and ``logits`` is what runs it.
        """
        weights = {site.name: weight_OI(layer.get_submodule(site.consumer)) for site in sites}
        stats = {name: _accumulator(name, weight, targets) for name, weight in weights.items()}
        host.give_back()
        with self._stage(index, f"{sites[0].part} statistics"):
            if index is None:
                assert logits is not None
                self.stream.observe_behind(logits, layer, sites, stats)
            else:
                self.stream.observe(layer, index, sites, stats, targets)
            for site in sites:
                self.processes.sum_(stats[site.name].buffers())
        removals: dict[str, Removal] = {}
        host.make_room(8 * max(weight.shape[1] for weight in weights.values()) ** 2)
        with self._stage(index, f"{sites[0].part} solve"):
            for site in sites:
                with _naming(index, site):
                    lead = self.processes.leads
                    solved = self._solve(layer, stats.pop(site.name), index, site) if lead else None
                removals[site.name] = self._cut(layer, index, site, solved)
        return removals

    def _solve(self, layer: nn.Module, stats: InputStats | GapStats, index: int | None, site: Site) -> Removal:
        """Choose and repair. What comes later, in this run or in one that resumes it, must see the weight that will be
        on disk: it is rounded here.
        """
        kept, consumer = self.job.plan.of_layer(index)[site.part], layer.get_submodule(site.consumer)
        inputs = stats.pooled() if isinstance(stats, GapStats) else stats
        weight, options = weight_OI(consumer), self._options(index, site, inputs, getattr(consumer, "bias", None))
        removal = solve_site(self.solve, weight, inputs.hessian_II(), site, kept, options)
        if isinstance(stats, GapStats):
            removal = correct(removal, weight, stats, options.damping)
        dtype = self.machine.stored_dtype
        require_finite("the repaired weight", removal.weight_OI, dtype)
        return dataclasses.replace(
            removal,
            kept_N=removal.kept_N.cpu(),
            weight_OI=to_host(removal.weight_OI, dtype),
            bias_O=None if removal.bias_O is None else to_host(removal.bias_O, dtype),
        )

    def _options(self, index: int | None, site: Site, inputs: InputStats, bias_O: Tensor | None) -> SolverOptions:
        """Where a search has been, its metric says how much the loss feels an error of the site's outputs."""
        task = self.job.search
        return dataclasses.replace(
            self.job.solver_options,
            mean_I=inputs.mean_I(),
            num_tokens=inputs.num_tokens,
            bias_O=bias_O,
            metric_OO=None if task is None else read_metric(task.folder, index, site.name),
        )

    def _replay(self, layer: nn.Module, index: int, sites: Sequence[Site], done: dict[str, Any]) -> None:
        """Do again what an earlier run decided, to bring the stream to where that run had it."""
        with self._stage(index, f"{sites[0].part} replay"):
            self.stream.observe(layer, index, sites)
        for site in sites:
            decided = record.removal(self.job, index, site, done) if self.processes.leads else None
            self._cut(layer, index, site, decided)

    def _cut(self, layer: nn.Module, index: int | None, site: Site, decided: Removal | None) -> Removal:
        """Carry out what the leader decided."""
        removal = self.processes.from_leader(decided)
        assert removal is not None
        surgery.remove(layer, site, removal)
        state_sizes_(self.job.checkpoint, layer, index, {site.part: self.job.plan.of_layer(index)[site.part]})
        self.stream.pruned(site, removal)
        return removal

    def _stage(self, index: int | None, name: str) -> AbstractContextManager[None]:
        """What lies behind the layers is shown as the last of them."""
        self.observer.stage(len(self.job.checkpoint.layers) - 1 if index is None else index, name)
        return self.clock.timed(name, self.machine.device)


def _accumulator(name: str, weight_OI: Tensor, targets: Targets | None) -> InputStats | GapStats:
    """What gathers the statistics of a site."""
    num_outputs, num_inputs = weight_OI.shape
    if targets is not None and name in targets.of_site:
        return GapStats(num_outputs, num_inputs, weight_OI.device)
    return InputStats(num_inputs, weight_OI.device)


@contextmanager
def _naming(index: int | None, site: Site) -> Iterator[None]:
    """Give a numerical failure the name of the layer and the site it happened at."""
    try:
        yield
    except NumericalError as error:
        where = "behind the layers" if index is None else f"layer {index}"
        raise NumericalError(f"{where}, {site.name} ({site.consumer}): {error}") from error
