"""What ``slimgpt prune`` will need of memory and disk: the stages of its options."""

from __future__ import annotations

import math

from torch import Tensor

from slimgpt.allocation.plan import Plan
from slimgpt.config import PruneConfig
from slimgpt.machine.setup import Machine
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.output.place import merged_bytes
from slimgpt.proof.memory import proved
from slimgpt.searching.memory import sweeping, trying
from slimgpt.searching.windows import search_windows, tried_windows
from slimgpt.solvers.memory import FLOAT32, solving
from slimgpt.streaming import memory
from slimgpt.streaming.memory import Needs, Stage
from slimgpt.streaming.sizes import LayerSize, SiteSize
from slimgpt.streaming.stages import Passage, passage_of, statistics

CURE = "lower --batch-size or --samples, or put the activations on a disk with --offload-dir"
WITHOUT_SEARCH = ", or do without the search by --allocation log"


def cure(config: PruneConfig) -> str:
    """What to do where memory is short."""
    return CURE + (WITHOUT_SEARCH if config.searches else "")


def needs_of(config: PruneConfig, checkpoint: Checkpoint, windows_BT: Tensor, plan: Plan, machine: Machine) -> Needs:
    """Those of a run, of this process."""
    processes = machine.processes
    dtypes = machine.compute_dtype, machine.stored_dtype
    own_BT = processes.share_of(windows_BT)
    passage = passage_of(checkpoint, own_BT, config.seqlen, machine.batch_size, machine.device, *dtypes)
    stages = [passage.embedding(), passage.writing(merged_bytes(plan.bytes_after))]
    if config.searches:
        searched = math.ceil(len(search_windows(windows_BT, processes.size)) / processes.size)
        tried = tried_windows(config.search_candidates, windows_BT, processes.size)
        stages += sweeping(passage, searched * config.seqlen)
        stages += trying(passage, tried.numel(), plan.ratio) if len(tried) else []
    for layer in dict.fromkeys(passage.size.layers):
        stages += _layer(config, passage, layer, plan.ratio)
    stages = proved(stages, plan.bytes_after, machine.stored_dtype, machine.compute_dtype, machine.device)
    return memory.needs(stages, machine.device, config.offload_dir is not None, processes.size_here)


def _layer(config: PruneConfig, passage: Passage, layer: LayerSize, ratio: float) -> list[Stage]:
    """Statistics, solver and the way on, at one layer."""
    corrects = config.correct_errors
    kept = passage.size.hidden + layer.kept
    if corrects:  # the dense path, and what it has behind each block
        kept += passage.size.hidden + sum(site.num_outputs for site in layer.sites)
    batch = {"a batch": passage.batch(layer)}
    stages = [passage.stage("a layer's pass", layer, kept, batch)]
    for part in layer.parts:
        sums = {"statistics": statistics(part, corrects)}
        solver = {"solver": max(_solver(config, site, ratio) for site in part)}
        stages.append(
            passage.stage(
                "a layer's statistics", layer, kept, {**sums, **batch, "a batch in float32": _as_float32(passage, part)}
            )
        )
        stages.append(passage.stage("a layer's solver", layer, kept, {**sums, **solver}))
    return stages


def _as_float32(passage: Passage, part: tuple[SiteSize, ...]) -> int:
    """Statistics are summed in float32: what enters a site is copied for them where it is not."""
    copied = passage.computed.itemsize < FLOAT32 and passage.device.type == "cpu"
    return passage.batch_tokens * max(site.num_inputs for site in part) * FLOAT32 if copied else 0


def _solver(config: PruneConfig, site: SiteSize, ratio: float) -> int:
    own = solving(config.solver, site.num_outputs, site.num_inputs, repairs=config.repairs, ratio=ratio)
    pooled = FLOAT32 * site.num_inputs**2 if config.correct_errors else 0
    return own + pooled
