"""prune(): the loop and nothing else. No mathematics, no file formats, no model names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from slimgpt import output, record, runtime, surgery
from slimgpt.arch.family import weight_OI
from slimgpt.config import PruneConfig
from slimgpt.errors import NumericalError
from slimgpt.job import Job, prepare
from slimgpt.runtime import Clock
from slimgpt.sites import Removal, Site
from slimgpt.solvers import SOLVERS
from slimgpt.stats import InputStats
from slimgpt.stream import ActivationStream, materialised
from slimgpt.weights import require_finite


class Observer:
    """What a run tells whoever watches it. Does nothing itself; the command line draws a progress bar."""

    def planned(self, job: Job) -> None:
        """Everything is checked and decided; work starts when this returns."""

    def stage(self, layer: int, stage: str) -> None:
        """A stage of a layer begins."""

    def tokens(self, count: int) -> None:
        """So many tokens went through one stage of a layer."""


@dataclass(frozen=True)
class PruneResult:
    """Where the smaller model is, and its full record (what ``slimgpt.json`` holds)."""

    path: Path
    record: dict[str, Any]


def prune(config: PruneConfig, observer: Observer | None = None) -> PruneResult:
    """Make a smaller model: check everything, prune layer after layer, write the result atomically.

    Raises:
        SlimGPTError: something the user can mend; raised before any work wherever that is possible.
    """
    clock = Clock()
    with clock.timed("prepare"):
        job = prepare(config)
    run = _Run(job, observer or Observer(), clock)
    run.observer.planned(job)
    try:
        with runtime.exact_float32():
            layers = run.all_layers()
    except NumericalError:
        job.journal.discard()  # the same run would fail again, and what cures it makes it another run
        raise
    with clock.timed("write"):
        folder = output.assemble(job)
    whole = record.build(job, layers, clock)
    record.write(folder, whole)
    output.publish(folder, job.out)
    return PruneResult(job.out, whole)


class _Run:
    """The loop over layers, and the two things a layer can be: in the journal already, or to be pruned."""

    def __init__(self, job: Job, observer: Observer, clock: Clock) -> None:
        self.job = job
        self.observer = observer
        self.clock = clock
        self.solve = SOLVERS[job.config.solver]

    def all_layers(self) -> list[dict[str, Any]]:
        """Prune every layer in order; the journal's records."""
        job = self.job
        with self.clock.timed("embed"):
            self.stream = ActivationStream(
                job.checkpoint, job.windows_BT, job.device, job.compute_dtype, job.batch_size, self.observer.tokens
            )
        return [self._layer(index) for index in range(len(job.checkpoint.layers))]

    def _layer(self, index: int) -> dict[str, Any]:
        job = self.job
        sites = job.checkpoint.sites(index)
        done = job.journal.record(index)
        with materialised(job.checkpoint, index, job.device, job.compute_dtype, job.stored_dtype) as layer:
            if done is None:
                removals = {site.name: self._prune(layer, index, site) for site in sites}
                with self.clock.timed("write"):
                    done = job.journal.write(index, record.layer_weights(job, layer, index), record.layer(removals))
            else:
                for site in sites:
                    self._replay(layer, index, site, done)
            with self._stage(index, "advance"):
                self.stream.advance(layer, index)
        return done

    def _prune(self, layer: nn.Module, index: int, site: Site) -> Removal:
        """Observe what enters the site's consumer, choose and repair, cut."""
        weight = weight_OI(layer.get_submodule(site.consumer))
        stats = InputStats(weight.shape[1], weight.device)
        with self._stage(index, f"{site.name} statistics"):
            self.stream.observe(layer, index, site, stats)
        with self._stage(index, f"{site.name} solve"), _naming(index, site):
            num_removed = site.num_units - self.job.plan.kept(index)[site.name]
            removal = self.solve(weight, stats.hessian_II(), site.num_units, num_removed, self.job.solver_options)
            require_finite("the repaired weight", removal.weight_OI, self.job.stored_dtype)
        # What comes later, in this run or in one that resumes it, must see the weight that will be on disk.
        removal = dataclasses.replace(removal, weight_OI=removal.weight_OI.to(self.job.stored_dtype))
        self._cut(layer, site, removal)
        return removal

    def _replay(self, layer: nn.Module, index: int, site: Site, done: dict[str, Any]) -> None:
        """Do again what an earlier run decided, to bring the stream to where that run had it."""
        with self._stage(index, f"{site.name} replay"):
            self.stream.observe(layer, index, site, None)
        self._cut(layer, site, record.removal(self.job, index, site, done))

    def _cut(self, layer: nn.Module, site: Site, removal: Removal) -> None:
        surgery.remove(layer, site, removal)
        self.stream.pruned(site, removal)

    def _stage(self, index: int, name: str) -> AbstractContextManager[None]:
        self.observer.stage(index, name)
        return self.clock.timed(name)


@contextmanager
def _naming(index: int, site: Site) -> Iterator[None]:
    """Give a numerical failure the name of the layer and the site it happened at."""
    try:
        yield
    except NumericalError as error:
        raise NumericalError(f"layer {index}, {site.name} ({site.consumer}): {error}") from error
