"""Turns options into a checked job: whatever can refuse a run refuses it here, before any work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slimgpt import calibration
from slimgpt.allocation import latency
from slimgpt.allocation.plan import Plan, Shape, make_plan
from slimgpt.allocation.ranking import RankingTask
from slimgpt.calibration.self_text import SELF, self_windows
from slimgpt.config import PruneConfig
from slimgpt.config.paths import path_of
from slimgpt.machine import devices
from slimgpt.machine.processes import Processes
from slimgpt.machine.setup import Machine
from slimgpt.machine.versions import versions
from slimgpt.model.beginning import first_tokens
from slimgpt.model.biases import with_biases
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.checks import check_context, check_rest
from slimgpt.model.pruned_config import pruned_config
from slimgpt.output import record_file
from slimgpt.output.place import Place
from slimgpt.pruning.journal import Journal, take_up
from slimgpt.search.task import SearchTask
from slimgpt.search.windows import search_windows, tried_windows
from slimgpt.sites import SolverOptions
from slimgpt.streaming import memory
from slimgpt.streaming.other_way import note_other_way

NOT_IN_FINGERPRINT = frozenset(
    {
        "model",
        "out",
        "recipe",
        "resume",
        "force",
        "calibration",
        "text_field",
        "bos",
        "device",
        "batch_size",
        "offload_dir",
        "search_cache",
        "latency_table",
        "report",
    }
)
"""Options that may change between a run and its continuation, or that the fingerprint holds in another form."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A run after all its checks.

    Attributes:
        config: the options.
        checkpoint: the dense model, opened.
        plan: what every layer keeps.
        latency: what layers cost by width, where a time is the target.
        output_config: the smaller model's configuration.
        tokenizer: the model's.
        windows_BT: int64 calibration windows.
        machine: what it runs on.
        place: the folder to make, and the one beside it to work in.
        journal: finished layers.
        fingerprint: what makes this run this run.
        needs: memory it will take.
        search: what a search is to find first; None where nothing is searched.
        ranking: what a ranking of all units is to find first; None where nothing is ranked.
        finished: the record of a run that is to be resumed, but had come to its end.
    """

    config: PruneConfig
    checkpoint: Checkpoint
    plan: Plan
    latency: latency.LatencyTable | None
    output_config: Any
    tokenizer: Any
    windows_BT: torch.Tensor
    machine: Machine
    place: Place
    journal: Journal
    fingerprint: dict[str, Any]
    needs: memory.Needs
    search: SearchTask | None
    ranking: RankingTask | None
    finished: dict[str, Any] | None

    @property
    def solver_options(self) -> SolverOptions:
        """The solver's share of the options."""
        config = self.config
        return SolverOptions(config.damping, config.repair, config.seed, config.grouped_cholesky, config.group_size)

    @property
    def indices(self) -> list[int | None]:
        """Of all that is cut: the layers in order, and None where there are sites beside them."""
        beside: list[int | None] = [None] if self.checkpoint.sites(None) else []
        return [*range(len(self.checkpoint.layers)), *beside]

    @property
    def finds(self) -> bool:
        """What every layer keeps is found on the model, not read off a curve."""
        return self.search is not None or self.ranking is not None


def prepare(config: PruneConfig, note: Say = lambda text: None, say: Say = lambda text: None) -> Job:
    """Check the options, open the model, plan, read the calibration text, and open the journal.

    ``note(text)`` is told what takes a while, ``say(text)`` what people should know before work starts.

    Raises:
        SlimGPTError: the first thing that is wrong.
    """
    config.check()
    device = devices.pick_device(config.device)
    processes = Processes.join(device)
    checkpoint = _open(config)
    check_context(checkpoint.config, config.seqlen)
    stored_dtype = checkpoint.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    place = Place(config.out)
    table = processes.from_leader(
        _latency_table(config, checkpoint, device, stored_dtype, place, note) if processes.leads else None
    )
    times = table.times[config.latency_of] if table is not None else None
    shape = shape_of(config)
    plan = make_plan(checkpoint, config, config.chosen_allocation, shape, stored_dtype.itemsize, times)
    output_config = config_of_plan(checkpoint, plan, config.layout, stored_dtype)
    if processes.leads:
        place.check(checkpoint.path, plan.bytes_after, config.force, config.resume)
    tokenizer = checkpoint.tokenizer()
    windows_BT = processes.from_leader(
        _windows(config, checkpoint, tokenizer, device, note, say) if processes.leads else torch.empty(0)
    )
    check_rest(checkpoint, windows_BT, stored_dtype)
    compute_dtype = devices.compute_dtype(checkpoint.dtype, device)
    if processes.leads:
        note_other_way(checkpoint, tokenizer, windows_BT, config.bos, device, compute_dtype, say)
    batch_size = devices.pick_batch_size(config.batch_size, config.seqlen, device)
    machine = Machine(device, compute_dtype, stored_dtype, batch_size, None, processes)
    needs = _needs(config, checkpoint, windows_BT, machine)
    offload_dir = path_of(config.offload_dir, "--offload-dir") if config.offload_dir else place.partial
    memory.check(needs, device, offload_dir, processes.size_here)
    if needs.offloaded:
        machine = replace(machine, offload_dir=offload_dir / f"rank-{processes.rank}")
    numbers = {"batch_size": batch_size, "processes": processes.size}
    fingerprint = _fingerprint(config, checkpoint, windows_BT, table, device, numbers)
    journal = Journal(place.partial, fingerprint)
    finished = processes.from_leader(_begin(config, place, plan, journal) if processes.leads else None)
    return Job(
        config=config,
        checkpoint=checkpoint,
        plan=plan,
        latency=table,
        output_config=output_config,
        tokenizer=tokenizer,
        windows_BT=windows_BT,
        machine=machine,
        place=place,
        journal=journal,
        fingerprint=fingerprint,
        needs=needs,
        search=_search(config, checkpoint, windows_BT, plan, machine, place.partial),
        ranking=_ranking(config, checkpoint, windows_BT, plan, machine),
        finished=finished,
    )


def shape_of(config: PruneConfig) -> Shape:
    """What the options let layers look like."""
    return Shape(config.layout, config.round_to, config.by_queries, config.whole_blocks)


def config_of_plan(checkpoint: Checkpoint, plan: Plan, layout: str, dtype: torch.dtype) -> Any:
    """The smaller model's configuration.

    Raises:
        ConfigError: no stock class can hold the uniform sizes.
    """
    layers = [plan.of_layer(index) for index in range(len(checkpoint.layers))]
    return pruned_config(checkpoint, layers, layout, dtype, plan.of_layer(None))


def _latency_table(
    config: PruneConfig,
    checkpoint: Checkpoint,
    device: torch.device,
    stored_dtype: torch.dtype,
    place: Place,
    note: Say,
) -> latency.LatencyTable | None:
    """What layers cost by width, where that is asked. Measuring takes a while: what can be refused is refused first."""
    if config.target_latency is None:
        return None
    place.check(checkpoint.path, 0, config.force, config.resume)
    return latency.table_for(config.latency_table, config.latency_prompt, checkpoint, device, stored_dtype, note)


def _open(config: PruneConfig) -> Checkpoint:
    """The model, with room for the biases that FLAP leaves behind."""
    checkpoint = open_checkpoint(config.model)
    return with_biases(checkpoint) if config.solver == "flap" else checkpoint


def _needs(config: PruneConfig, checkpoint: Checkpoint, windows_BT: torch.Tensor, machine: Machine) -> memory.Needs:
    processes = machine.processes
    searched, tried = windows_BT[:0], windows_BT[:0]
    if config.searches:
        searched = search_windows(windows_BT, processes.size)
        tried = tried_windows(config.search_candidates, windows_BT, processes.size)
    return memory.estimate(
        checkpoint,
        len(processes.share_of(windows_BT)),
        config.seqlen,
        machine.batch_size,
        machine.device,
        machine.compute_dtype,
        offload=config.offload_dir is not None,
        sharers=processes.size_here,
        searched_windows=math.ceil(len(searched) / processes.size),
        tried_windows=len(tried),
        corrects=config.correct_errors,
    )


def _search(
    config: PruneConfig, checkpoint: Checkpoint, windows_BT: torch.Tensor, plan: Plan, machine: Machine, partial: Path
) -> SearchTask | None:
    """What is measured goes to the user's folder, or to one that goes with the working folder."""
    if not config.searches:
        return None
    return SearchTask(
        checkpoint=checkpoint,
        windows_BT=windows_BT,
        places=plan.places,
        goal=plan.goal,
        machine=machine,
        folder=path_of(config.search_cache, "--search-cache") if config.search_cache else partial / "search",
        ours=config.search_cache is None,
        damping=config.damping,
        seed=config.seed,
        shape=shape_of(config),
        num_candidates=config.search_candidates,
    )


def _ranking(
    config: PruneConfig, checkpoint: Checkpoint, windows_BT: torch.Tensor, plan: Plan, machine: Machine
) -> RankingTask | None:
    if not config.ranks:
        return None
    return RankingTask(checkpoint, windows_BT, plan.places, plan.goal, machine, shape_of(config))


def _windows(
    config: PruneConfig, checkpoint: Checkpoint, tokenizer: Any, device: torch.device, note: Say, say: Say
) -> torch.Tensor:
    if config.calibration == SELF:
        first = first_tokens(tokenizer, config.bos)
        return self_windows(checkpoint, tokenizer, device, config.samples, config.seqlen, config.seed, note, first)
    return calibration.asked_windows(config, tokenizer, config.seed, say)


def _begin(config: PruneConfig, place: Place, plan: Plan, journal: Journal) -> dict[str, Any] | None:
    """Open the journal; or drop it, and return the record, where the run to resume has its output in place."""
    with place.full_disk_named(plan.bytes_after):
        return take_up(
            journal,
            place,
            config.force,
            config.resume,
            lambda: record_file.finished_record(place.out, journal.fingerprint),
        )


def _fingerprint(
    config: PruneConfig,
    checkpoint: Checkpoint,
    windows_BT: torch.Tensor,
    table: latency.LatencyTable | None,
    device: torch.device,
    numbers: dict[str, int],
) -> dict[str, Any]:
    """What has to be equal for a run to continue another one and to end with the same bytes."""
    options = {key: value for key, value in asdict(config).items() if key not in NOT_IN_FINGERPRINT}
    return {
        **options,
        "ratio": config.asked_ratio,
        "allocation": config.chosen_allocation,
        "latency_table": table.fingerprint() if table is not None else None,
        "model": checkpoint.fingerprint(),
        "calibration": calibration.fingerprint(windows_BT),
        "device": device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        **numbers,
        **versions(),
    }
