"""Turns options into a checked job: whatever can refuse a run refuses it here, before any work."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from slimgpt import calibration, latency, memory, output, runtime
from slimgpt._version import __version__
from slimgpt.biases import with_biases
from slimgpt.checkpoint import Checkpoint, open_checkpoint
from slimgpt.config import PruneConfig
from slimgpt.journal import Journal
from slimgpt.model_checks import check_context, check_rest
from slimgpt.planning import Plan, make_plan
from slimgpt.search_text import search_windows, searches, tried_windows
from slimgpt.selftext import SELF, self_windows
from slimgpt.sites import SolverOptions
from slimgpt.team import Team

NOT_IN_FINGERPRINT = frozenset(
    {
        "model",
        "out",
        "recipe",
        "resume",
        "force",
        "calibration",
        "device",
        "batch_size",
        "offload_dir",
        "search_cache",
        "latency_table",
        "report",
    }
)
"""Options that may change between a run and its continuation, or that the fingerprint holds in another form."""


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
        device: where layers run and sites are solved.
        compute_dtype: dtype of the forward pass.
        stored_dtype: dtype of the written weights.
        batch_size: windows in one forward pass.
        out: the folder to make.
        journal: finished layers.
        fingerprint: what makes this run this run.
        needs: memory it will take.
        offload_dir: where this process's activations go; None keeps them in memory.
        search_folder: where the search's curves and metrics are or will be; None where nothing is searched.
        team: the processes that share the work.
        finished: the record of a run that is to be resumed, but had come to its end.
    """

    config: PruneConfig
    checkpoint: Checkpoint
    plan: Plan
    latency: latency.LatencyTable | None
    output_config: Any
    tokenizer: Any
    windows_BT: torch.Tensor
    device: torch.device
    compute_dtype: torch.dtype
    stored_dtype: torch.dtype
    batch_size: int
    out: Path
    journal: Journal
    fingerprint: dict[str, Any]
    needs: memory.Needs
    offload_dir: Path | None
    search_folder: Path | None
    team: Team
    finished: dict[str, Any] | None

    @property
    def solver_options(self) -> SolverOptions:
        """The solver's share of the options."""
        config = self.config
        return SolverOptions(config.damping, config.repair, config.seed, config.grouped_cholesky, config.group_size)

    @property
    def tries(self) -> bool:
        """The search tries allocations out."""
        return searches(self.config) and self.config.search_candidates > 0


def prepare(config: PruneConfig, note: Callable[[str], None] = lambda text: None) -> Job:
    """Check the options, open the model, plan, read the calibration text, and open the journal.

    ``note(text)`` is told what takes a while.

    Raises:
        SlimGPTError: the first thing that is wrong.
    """
    config.check()
    device = runtime.pick_device(config.device)
    team = Team.join(device)
    checkpoint = _open(config)
    check_context(checkpoint.config, config.seqlen)
    stored_dtype = checkpoint.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    out = Path(os.path.abspath(Path(config.out).expanduser()))
    partial = output.partial_folder(out)
    table = team.from_leader(
        _latency_table(config, checkpoint, device, stored_dtype, out, note) if team.leads else None
    )
    times = table.times[config.latency_of] if table is not None else None
    plan = make_plan(checkpoint, config, stored_dtype.itemsize, times)
    output_config = output.pruned_config(checkpoint, plan, config.layout, stored_dtype)
    if team.leads:
        _check_out(config, out, checkpoint, plan.bytes_after)
    tokenizer = checkpoint.tokenizer()
    windows_BT = team.from_leader(
        _windows(config, checkpoint, tokenizer, device, note) if team.leads else torch.empty(0)
    )
    check_rest(checkpoint, windows_BT, stored_dtype)
    batch_size = runtime.pick_batch_size(config.batch_size, config.seqlen, device)
    compute_dtype = runtime.compute_dtype(checkpoint.dtype, device)
    offload_dir = Path(config.offload_dir).expanduser() if config.offload_dir else partial
    needs = _needs(config, checkpoint, windows_BT, team, batch_size, device)
    memory.check(needs, device, offload_dir, team.size_here)
    numbers = {"batch_size": batch_size, "processes": team.size}
    fingerprint = _fingerprint(config, checkpoint, windows_BT, table, device, numbers)
    journal = Journal(partial, fingerprint)
    finished = team.from_leader(_begin(config, out, checkpoint, plan, journal) if team.leads else None)
    return Job(
        config=config,
        checkpoint=checkpoint,
        plan=plan,
        latency=table,
        output_config=output_config,
        tokenizer=tokenizer,
        windows_BT=windows_BT,
        device=device,
        compute_dtype=compute_dtype,
        stored_dtype=stored_dtype,
        batch_size=batch_size,
        out=out,
        journal=journal,
        fingerprint=fingerprint,
        needs=needs,
        offload_dir=offload_dir / f"rank-{team.rank}" if needs.offloaded else None,
        search_folder=_search_folder(config, partial),
        team=team,
        finished=finished,
    )


def _latency_table(
    config: PruneConfig,
    checkpoint: Checkpoint,
    device: torch.device,
    stored_dtype: torch.dtype,
    out: Path,
    note: Callable[[str], None],
) -> latency.LatencyTable | None:
    """What layers cost by width, where that is asked. Measuring takes a while: what can be refused is refused first."""
    if config.target_latency is None:
        return None
    _check_out(config, out, checkpoint, bytes_after=0)
    return latency.table_for(config, checkpoint, device, stored_dtype, note)


def _open(config: PruneConfig) -> Checkpoint:
    """The model, with room for the biases that FLAP leaves behind."""
    checkpoint = open_checkpoint(config.model)
    return with_biases(checkpoint) if config.solver == "flap" else checkpoint


def _check_out(config: PruneConfig, out: Path, checkpoint: Checkpoint, bytes_after: int) -> None:
    if config.resume or config.force:
        output.recover(out)
    output.check_output(out, checkpoint.path, bytes_after, config.force, config.resume)


def _needs(
    config: PruneConfig,
    checkpoint: Checkpoint,
    windows_BT: torch.Tensor,
    team: Team,
    batch_size: int,
    device: torch.device,
) -> memory.Needs:
    searched = search_windows(windows_BT, team.size) if searches(config) else windows_BT[:0]
    tried = tried_windows(config, windows_BT, team.size)
    return memory.estimate(
        checkpoint,
        len(team.share_of(windows_BT)),
        config.seqlen,
        batch_size,
        device,
        runtime.compute_dtype(checkpoint.dtype, device),
        offload=config.offload_dir is not None,
        sharers=team.size_here,
        searched_windows=math.ceil(len(searched) / team.size),
        tried_windows=len(tried),
        corrects=config.correct_errors,
    )


def _search_folder(config: PruneConfig, partial: Path) -> Path | None:
    """The user's, or one that goes with the working folder."""
    if not searches(config):
        return None
    return Path(config.search_cache).expanduser() if config.search_cache else partial / "search"


def _windows(
    config: PruneConfig, checkpoint: Checkpoint, tokenizer: Any, device: torch.device, note: Callable[[str], None]
) -> torch.Tensor:
    if config.calibration == SELF:
        return self_windows(checkpoint, tokenizer, device, config.samples, config.seqlen, config.seed, note)
    return calibration.cached_windows(config.calibration, tokenizer, config.samples, config.seqlen, config.seed)


def _begin(
    config: PruneConfig, out: Path, checkpoint: Checkpoint, plan: Plan, journal: Journal
) -> dict[str, Any] | None:
    """Open the journal; or drop it, and return the record, where the run to resume has its output in place."""
    finished = output.finished_record(out, journal.fingerprint) if config.resume else None
    if finished is not None or (config.force and not config.resume):
        journal.discard()
    if finished is None:
        output.check_place(out, checkpoint.path, config.force)  # --resume alone does not replace another output
        with output.full_disk_named(out, plan.bytes_after):
            journal.begin(config.resume)
    return finished


def versions() -> dict[str, str]:
    """Versions that the numbers depend on."""
    return {
        "slimgpt": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


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
