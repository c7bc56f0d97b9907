"""Where to cut: one pass forward and back through the dense model, and a dynamic programme over what it tells.

windows --Sweep--> Moments --loss_table--> LossCurves --allocate--> kept units of every layer --refined--> better ones

Comes in: a :class:`SearchTask <slimgpt.searching.task.SearchTask>`. Goes out: units that each layer keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from slimgpt import calibration
from slimgpt.allocation.places import Key, Place
from slimgpt.errors import ConfigError, NumericalError
from slimgpt.machine.seals import warn
from slimgpt.machine.versions import versions
from slimgpt.searching.allocate import allocate, removed_params, to_yaml
from slimgpt.searching.answer import SearchResult, search
from slimgpt.searching.cache import (
    CURVES,
    LossCurve,
    LossCurves,
    has_hessians,
    is_intact,
    read_curves,
    read_metric,
    write_curves,
    write_hessians,
    write_metrics,
)
from slimgpt.searching.curves import loss_table, metric_OO
from slimgpt.searching.refine import refined, tried
from slimgpt.searching.sweep import Moments, Sweep
from slimgpt.searching.task import SearchTask
from slimgpt.sites import Kept, Site, by_part
from slimgpt.streaming.activations import ActivationRoom

__all__ = [
    "SearchResult",
    "SearchTask",
    "allocate",
    "find_allocation",
    "read_curves",
    "read_metric",
    "removed_params",
    "search",
    "to_yaml",
    "tried",
]


MAX_WINDOWS = 2**20
"""So many windows of one run have seeds that no other run's have. (A process draws for its windows what one would.)"""


def find_allocation(
    task: SearchTask, stage: Callable[[int, str], None], tokens: Callable[[int], None]
) -> dict[Key, Kept]:
    """The units that every place keeps, from the task's folder, which is filled first where it is empty.

    ``stage(layer, name)`` and ``tokens(count)`` are told how it goes.

    Raises:
        ConfigError: the folder holds the search of another model or of other calibration text.
        NumericalError: a Hessian is singular.
    """
    processes = task.machine.processes
    wanted = _fingerprint(task)
    if not processes.from_leader(_is_filled(task, wanted) if processes.leads else None):
        _fill(task, wanted, stage, tokens)
    curves = processes.from_leader(read_curves(task.folder) if processes.leads else None)
    assert curves is not None
    if task.num_candidates:
        return refined(task, curves, stage, tokens)
    return allocate(curves, task.goal, task.shape)[0]


def _fingerprint(task: SearchTask) -> dict[str, Any]:
    """All that the curves depend on."""
    return {
        "model": task.checkpoint.fingerprint(),
        "calibration": calibration.fingerprint(task.searched_BT),
        "damping": task.damping,
        "seed": task.seed,
        "dtype": str(task.machine.compute_dtype).removeprefix("torch."),
        "device": task.machine.device.type,
        **versions(),
    }


def _is_filled(task: SearchTask, wanted: dict[str, Any]) -> bool:
    """A finished search is there, it is this one, and whole.

    Raises:
        ConfigError: the user's folder holds another one, or damaged curves.
    """
    if not (task.folder / CURVES).is_file():
        return False
    try:
        _check_same(task, wanted)
    except ConfigError:
        if not task.ours:
            raise
        warn(f"{task.folder / CURVES} is damaged, or from another run: the search is done again.")
        return False
    return is_intact(task.folder)


def _check_same(task: SearchTask, wanted: dict[str, Any]) -> None:
    """See that the folder's search is this one.

    Raises:
        ConfigError: it is damaged, another one, or has not kept what trials take.
    """
    folder = task.folder
    found = read_curves(folder).fingerprint
    if task.num_candidates and not has_hessians(folder, len(task.checkpoint.layers)):
        raise ConfigError(
            f"--search-cache {folder} holds a search without --search-candidates, which cannot be tried out: name "
            "another folder, or remove it."
        )
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise ConfigError(
                f"--search-cache {folder} holds another search: {key} was {found.get(key)!r} and is now "
                f"{wanted.get(key)!r}. Name another folder, or remove it."
            )


@torch.inference_mode(False)  # gradients, whatever the caller is in
def _fill(
    task: SearchTask,
    wanted: dict[str, Any],
    stage: Callable[[int, str], None],
    tokens: Callable[[int], None],
) -> None:
    """Sweep, and write what every layer tells as soon as it has told it."""
    machine, processes, folder = task.machine, task.machine.processes, task.folder
    if processes.leads:
        folder.mkdir(parents=True, exist_ok=True)
    windows_BT = task.searched_BT
    # float16 cannot hold small gradients
    dtype = torch.bfloat16 if machine.compute_dtype == torch.float16 else machine.compute_dtype
    room = ActivationRoom(dtype, machine.offload_dir)
    sweep = Sweep(
        task.checkpoint,
        processes.share_of(windows_BT),
        machine.device,
        dtype,
        machine.batch_size,
        room,
        processes.share_of(task.seed * MAX_WINDOWS + torch.arange(len(windows_BT))),
        lambda index, direction: stage(_shown(task, index), f"search, {direction}"),
        tokens,
    )
    curves: dict[Key, LossCurve] = {}
    files: dict[str, str] = {}
    for index, moments in sweep.layers():
        for site_moments in moments.values():
            processes.sum_([*site_moments.inputs.buffers(), *site_moments.gradients.buffers()])
        if processes.leads:
            stage(_shown(task, index), "search, curves")
            files |= write_metrics(folder, index, {name: metric_OO(found) for name, found in moments.items()})
            if task.num_candidates:
                hessians = {name: found.inputs.hessian_II() for name, found in moments.items()}
                files |= write_hessians(folder, index, hessians)
            curves |= _curves_of(task, index, moments, windows_BT.numel())
    room.close()
    if processes.leads:
        checkpoint = task.checkpoint
        sizes = (checkpoint.num_params, machine.stored_dtype.itemsize)
        in_order = tuple(curves[place.key] for place in task.places)
        write_curves(folder, LossCurves(checkpoint.source, *sizes, wanted, in_order), files)


def _shown(task: SearchTask, index: int | None) -> int:
    """What lies behind the layers is shown as the last of them."""
    return len(task.checkpoint.layers) - 1 if index is None else index


def _curves_of(
    task: SearchTask, index: int | None, moments: Mapping[str, Moments], num_tokens: int
) -> dict[Key, LossCurve]:
    """The curves of a layer's places, or of those beside the layers."""
    places = {place.key: place for place in task.places}
    return {
        key: LossCurve(places[key], _losses(task, sites, places[key], moments, num_tokens))
        for sites in by_part(task.checkpoint.sites(index))
        if (key := Key(index, sites[0].part)) in places
    }


def _losses(
    task: SearchTask, sites: Sequence[Site], place: Place, moments: Mapping[str, Moments], num_tokens: int
) -> tuple[tuple[float, ...], ...]:
    """What the run asks for; the user's own folder is to answer for members too, which takes three times as long."""
    by_members = task.shape.by_members or not task.ours
    try:
        return loss_table([moments[site.name] for site in sites], place, num_tokens, task.damping, by_members)
    except NumericalError as error:
        where = "beside the layers" if place.layer is None else f"layer {place.layer}"
        raise NumericalError(f"search, {where}, {place.part}: {error}") from error
