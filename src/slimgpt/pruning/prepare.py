"""From options to a checked job, link after link: whatever can refuse a run refuses it here, before any work.

options --> model --> machine --> plan --> text --> job
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from slimgpt import calibration
from slimgpt.allocation import latency
from slimgpt.allocation.plan import Plan, make_plan
from slimgpt.allocation.ranking import RankingTask
from slimgpt.allocation.shape import Shape
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
from slimgpt.model.inspection import staying
from slimgpt.model.pruned_config import pruned_config
from slimgpt.output import record_file
from slimgpt.output.journal import Journal, take_up
from slimgpt.output.place import Place
from slimgpt.pruning.job import Job, Text
from slimgpt.pruning.needs import cure, needs_of
from slimgpt.pruning.units_proof import prove_units
from slimgpt.searching.task import SearchTask
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
        "families",
        "effort",
    }
)
"""Options that may change between a run and its continuation, or that the fingerprint holds in another form."""

Say = Callable[[str], None]


def prepare(config: PruneConfig, note: Say = lambda text: None, say: Say = lambda text: None) -> Job:
    """Check the options, open the model, plan, read the calibration text, and open the journal.

    ``note(text)`` is told what takes a while, ``say(text)`` what people should know before work starts.

    Raises:
        SlimGPTError: the first thing that is wrong.
    """
    config.check()
    device = devices.pick_device(config.device)
    processes = Processes.join(device)
    model = _model(config.model, config.families, config.seqlen, biases=config.solver == "flap")
    machine = _machine(model.dtype, device, processes, config.dtype, config.batch_size, config.seqlen)
    place, shape = Place(config.out), shape_of(config)
    table = processes.from_leader(_latency_table(config, model, machine, place, note) if processes.leads else None)
    times = table.times[config.latency_of] if table is not None else None
    plan = make_plan(model, config, config.chosen_allocation, shape, machine.stored_dtype.itemsize, times)
    output_config = config_of_plan(model, plan, config.layout, machine.stored_dtype)
    if processes.leads:
        place.check(model.path, plan.bytes_after, config.force, config.resume)
    text = _text(config, model, machine, note, say)
    if processes.leads and not model.family.tested:
        for line in staying(model):
            say(line)
        note("proving on the weights that the others can go …")
        prove_units(model, text.windows_BT, machine)
    needs = needs_of(config, model, text.windows_BT, plan, machine)
    machine = _with_offloading(machine, needs, config, place)
    fingerprint = _fingerprint(config, model, text.windows_BT, table, machine)
    journal = Journal(place.partial, fingerprint)
    finished = processes.from_leader(_begin(config, place, plan, journal) if processes.leads else None)
    return Job(
        config=config,
        checkpoint=model,
        text=text,
        plan=plan,
        latency=table,
        output_config=output_config,
        machine=machine,
        place=place,
        journal=journal,
        fingerprint=fingerprint,
        needs=needs,
        search=_search(config, model, text.windows_BT, plan, machine, place.partial),
        ranking=_ranking(config, model, text.windows_BT, plan, machine),
        finished=finished,
    )


def _model(name: str, families: str, seqlen: int, biases: bool) -> Checkpoint:
    """The model, with room for ``biases`` that FLAP leaves behind."""
    checkpoint = open_checkpoint(name, families)
    check_context(checkpoint.config, seqlen)
    return with_biases(checkpoint) if biases else checkpoint


def _machine(
    stored: torch.dtype, device: torch.device, processes: Processes, dtype: str, batch_size: int, seqlen: int
) -> Machine:
    """What the run runs on; activations stay in memory at first."""
    return Machine(
        device=device,
        compute_dtype=devices.compute_dtype(stored, device),
        stored_dtype=stored if dtype == "auto" else getattr(torch, dtype),
        batch_size=devices.pick_batch_size(batch_size, seqlen, device),
        offload_dir=None,
        processes=processes,
    )


def _with_offloading(machine: Machine, needs: memory.Needs, config: PruneConfig, place: Place) -> Machine:
    """The same, with a folder for activations where they do not fit.

    Raises:
        ConfigError: neither memory nor disk is large enough.
    """
    asked, processes = config.offload_dir, machine.processes
    folder = path_of(asked, "--offload-dir") if asked else place.partial
    memory.check(needs, machine.device, cure(config), folder, processes.size_here)
    return replace(machine, offload_dir=folder / f"rank-{processes.rank}") if needs.offloaded else machine


def _text(config: PruneConfig, model: Checkpoint, machine: Machine, note: Say, say: Say) -> Text:
    """The calibration text, the same for all processes."""
    tokenizer, processes = model.tokenizer(), machine.processes
    windows_BT = processes.from_leader(
        calibration_windows(config, model, tokenizer, machine.device, note, say) if processes.leads else torch.empty(0)
    )
    check_rest(model, windows_BT, machine.stored_dtype)
    if processes.leads:
        note_other_way(model, tokenizer, windows_BT, config.bos, machine.device, machine.compute_dtype, say)
    return Text(tokenizer, windows_BT)


def shape_of(config: PruneConfig) -> Shape:
    """What the options let layers look like."""
    return Shape(config.layout, config.round_to, config.by_queries, config.whole_blocks, config.tensor_parallel)


def config_of_plan(checkpoint: Checkpoint, plan: Plan, layout: str, dtype: torch.dtype) -> Any:
    """The smaller model's configuration.

    Raises:
        ConfigError: no stock class can hold the uniform sizes.
    """
    layers = [plan.of_layer(index) for index in range(len(checkpoint.layers))]
    return pruned_config(checkpoint, layers, layout, dtype, plan.of_layer(None))


def _latency_table(
    config: PruneConfig, model: Checkpoint, machine: Machine, place: Place, note: Say
) -> latency.LatencyTable | None:
    """What layers cost by width, where that is asked. Measuring takes a while: what can be refused is refused first."""
    if config.target_latency is None:
        return None
    place.check(model.path, 0, config.force, config.resume)
    file, prompt_tokens = config.latency_table, config.latency_prompt
    return latency.table_for(file, prompt_tokens, model, machine.device, machine.stored_dtype, note)


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


def calibration_windows(
    config: PruneConfig, checkpoint: Checkpoint, tokenizer: Any, device: torch.device, note: Say, say: Say
) -> torch.Tensor:
    """What the options say to calibrate on, int64."""
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
    machine: Machine,
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
        "device": machine.device.type,
        "threads": torch.get_num_threads() if machine.device.type == "cpu" else None,
        "batch_size": machine.batch_size,
        "processes": machine.processes.size,
        **versions(),
    }
