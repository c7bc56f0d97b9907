"""Where to cut: one pass forward and back through the dense model, and a dynamic programme over what it tells.

windows --Sweep--> Moments --loss_table--> LossCurves --allocate--> kept units of every layer --refined--> better ones
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from slimgpt import calibration
from slimgpt.activations import ActivationRoom
from slimgpt.allocation import LayerPlan
from slimgpt.arch.family import ATTENTION
from slimgpt.errors import ConfigError, NumericalError
from slimgpt.job import Job, versions
from slimgpt.search.allocate import allocate, removed_params, to_yaml
from slimgpt.search.answer import Answer, answer
from slimgpt.search.cache import (
    CURVES,
    LossCurve,
    LossCurves,
    has_hessians,
    read_curves,
    read_metric,
    write_curves,
    write_hessians,
    write_metrics,
)
from slimgpt.search.curves import loss_table, metric_OO
from slimgpt.search.refine import refined, tried
from slimgpt.search.sweep import Moments, Sweep
from slimgpt.search_text import search_windows
from slimgpt.sites import by_part

__all__ = ["Answer", "allocate", "answer", "read_curves", "read_metric", "removed_params", "search", "to_yaml", "tried"]


MAX_WINDOWS = 2**20
"""So many windows of one run have seeds that no other run's have. (A process draws for its windows what one would.)"""


def search(job: Job, stage: Callable[[int, str], None], tokens: Callable[[int], None]) -> list[LayerPlan]:
    """The units that every layer keeps, from the job's search folder, which is filled first where it is empty.

    ``stage(layer, name)`` and ``tokens(count)`` are told how it goes.

    Raises:
        ConfigError: the folder holds the search of another model or of other calibration text.
        NumericalError: a Hessian is singular.
    """
    folder, team = job.search_folder, job.team
    assert folder is not None
    wanted = _fingerprint(job)
    if not team.from_leader(_is_filled(job, folder, wanted) if team.leads else None):
        _fill(job, folder, wanted, stage, tokens)
    curves = team.from_leader(read_curves(folder) if team.leads else None)
    assert curves is not None
    if job.tries:
        return refined(job, folder, curves, stage, tokens)
    return allocate(curves, job.plan.goal, job.config.round_to, job.config.by_queries)[0]


def _fingerprint(job: Job) -> dict[str, Any]:
    """All that the curves depend on."""
    return {
        "model": job.checkpoint.fingerprint(),
        "calibration": calibration.fingerprint(search_windows(job.windows_BT, job.team.size)),
        "damping": job.config.damping,
        "seed": job.config.seed,
        "dtype": str(job.compute_dtype).removeprefix("torch."),
        "device": job.device.type,
        **versions(),
    }


def _is_filled(job: Job, folder: Path, wanted: dict[str, Any]) -> bool:
    """A finished search is there, and it is this one.

    Raises:
        ConfigError: it is another one, or it has not kept what trials take.
    """
    if not (folder / CURVES).is_file():
        return False
    if job.tries and not has_hessians(folder, len(job.checkpoint.layers)):
        raise ConfigError(
            f"--search-cache {folder} holds a search without --search-candidates, which cannot be tried out: name "
            "another folder, or remove it."
        )
    found = read_curves(folder).fingerprint
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise ConfigError(
                f"--search-cache {folder} holds another search: {key} was {found.get(key)!r} and is now "
                f"{wanted.get(key)!r}. Name another folder, or remove it."
            )
    return True


@torch.inference_mode(False)  # gradients, whatever the caller is in
def _fill(
    job: Job,
    folder: Path,
    wanted: dict[str, Any],
    stage: Callable[[int, str], None],
    tokens: Callable[[int], None],
) -> None:
    """Sweep, and write what every layer tells as soon as it has told it."""
    if job.team.leads:
        folder.mkdir(parents=True, exist_ok=True)
    windows_BT = search_windows(job.windows_BT, job.team.size)
    # float16 cannot hold small gradients
    dtype = torch.bfloat16 if job.compute_dtype == torch.float16 else job.compute_dtype
    room = ActivationRoom(dtype, job.offload_dir)
    sweep = Sweep(
        job.checkpoint,
        job.team.share_of(windows_BT),
        job.device,
        dtype,
        job.batch_size,
        room,
        job.team.share_of(job.config.seed * MAX_WINDOWS + torch.arange(len(windows_BT))),
        lambda index, direction: stage(index, f"search, {direction}"),
        tokens,
    )
    curves: list[dict[str, LossCurve]] = []
    for index, moments in sweep.layers():
        for site_moments in moments.values():
            job.team.sum_([*site_moments.inputs.buffers(), *site_moments.gradients.buffers()])
        if job.team.leads:
            stage(index, "search, curves")
            write_metrics(folder, index, {name: metric_OO(found) for name, found in moments.items()})
            if job.tries:
                write_hessians(folder, index, {name: found.inputs.hessian_II() for name, found in moments.items()})
            curves.append(_layer_curves(job, index, moments, windows_BT.numel()))
    room.close()
    if job.team.leads:
        checkpoint = job.checkpoint
        sizes = (checkpoint.num_params, job.stored_dtype.itemsize)
        write_curves(folder, LossCurves(checkpoint.source, *sizes, wanted, tuple(curves[::-1])))


def _layer_curves(job: Job, index: int, moments: Mapping[str, Moments], num_tokens: int) -> dict[str, LossCurve]:
    budget = job.plan.budget[index]
    curves = {}
    for sites in by_part(job.checkpoint.sites(index)):
        part = sites[0].part
        have = budget.attention if part == ATTENTION else budget.ffn
        try:
            loss = loss_table([moments[site.name] for site in sites], have, num_tokens, job.config.damping)
        except NumericalError as error:
            raise NumericalError(f"search, layer {index}, {part}: {error}") from error
        curves[part] = LossCurve(have, loss)
    return curves
