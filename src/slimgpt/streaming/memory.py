"""What a run will need of the device, the host and the disk, known before it starts.

The estimates are upper bounds of what the code allocates, not of what Python and its libraries take (about 0.7 GiB).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from slimgpt.errors import ConfigError
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.sites import by_part
from slimgpt.streaming.stream import keeps_input

SOLVER_MATRICES = 3  # float64 I x I at a time: the inverse, the gram, and one product in flight
BATCH_COPIES = 6  # tensors of the width of the widest activation that live at once in a layer's forward pass
CONVEYED = 3  # batches of each kept tensor on a GPU at once: the one at work, the one that comes, the one that goes
SEARCH_COPIES = 24  # the same for a forward and a backward pass of a search
LAYERS = 3  # on the host at once: one that is read, one at work, one that is written
LOGIT_COPIES = 5  # float32 tensors of a window's logits that live at once where its gradient is taken
ROOM_LEFT = 0.5  # share of free memory that activations may take before they go to disk


@dataclass(frozen=True)
class Needs:
    """Bytes, at the peak.

    Attributes:
        device: layer, statistics, solver and one batch; part of ``host`` when the device is the CPU.
        activations: residual stream and kept inputs of the calibration tokens of this process.
        weights: layers on their way in and out, or the embeddings.
        offloaded: the activations go to a file.
        on_cpu: the device is the CPU.
    """

    device: int
    activations: int
    weights: int
    offloaded: bool
    on_cpu: bool

    @property
    def host(self) -> int:
        """Memory of this machine."""
        return self.weights + (0 if self.offloaded else self.activations) + (self.device if self.on_cpu else 0)

    @property
    def disk(self) -> int:
        """Room for offloaded activations."""
        return self.activations if self.offloaded else 0


def estimate(
    checkpoint: Checkpoint,
    num_windows: int,
    seqlen: int,
    batch_size: int,
    device: torch.device,
    compute_dtype: torch.dtype,
    offload: bool,
    sharers: int = 1,
    searched_windows: int = 0,
    tried_windows: int = 0,
    corrects: bool = False,
) -> Needs:
    """Bound what a run over ``num_windows`` x ``seqlen`` tokens needs; decides on offloading unless it is asked for.

    ``sharers`` processes of the same run share this machine. A search goes over ``searched_windows`` first, and keeps
    what enters every layer; allocations that are tried out on ``tried_windows`` have the model's layers in memory, and
    what enters each; a run that ``corrects`` errors carries the dense model's activations as well.
    """
    hidden = checkpoint.width
    layer_params = max(sum(p.numel() for p in layer.parameters()) for layer in checkpoint.layers)
    layers = [checkpoint.sites(index) for index in range(len(checkpoint.layers))]
    kept = max(sum(site.num_inputs for site in sites if keeps_input(site, device)) for sites in layers)
    widest = max(site.num_inputs for sites in layers for site in sites)
    statistics = max(sum(site.num_inputs**2 for site in part) for sites in layers for part in by_part(sites))
    stored, computed = checkpoint.dtype.itemsize, compute_dtype.itemsize
    per_token = hidden + kept + (hidden + 2 * hidden if corrects else 0)
    searched = searched_windows * seqlen * hidden * (len(layers) + 1) * computed
    activations = max(num_windows * seqlen * per_token * stored, searched)
    embeddings = sum(checkpoint.skeleton.get_parameter(name).numel() for name in checkpoint.other_names())
    free = psutil.virtual_memory().available / sharers
    tokens = batch_size * seqlen
    batch = tokens * max(widest, hidden) * computed
    conveyed = CONVEYED * tokens * per_token * computed if device.type == "cuda" else 0
    logits = seqlen * checkpoint.vocabulary * 4 * LOGIT_COPIES + embeddings * computed
    tried = tried_windows * seqlen * hidden * (2 * len(layers) + 2) * computed
    return Needs(
        device=(checkpoint.num_params if tried_windows else layer_params) * computed
        + tried
        + 4 * statistics * (2 if corrects else 1)
        + 8 * SOLVER_MATRICES * widest**2
        + conveyed
        + max(batch * (SEARCH_COPIES if searched_windows else BATCH_COPIES), logits if searched_windows else 0),
        activations=activations,
        weights=max(embeddings * computed, LAYERS * layer_params * stored),
        offloaded=offload or activations > ROOM_LEFT * free,
        on_cpu=device.type == "cpu",
    )


def check(needs: Needs, device: torch.device, offload_dir: Path, sharers: int = 1) -> None:
    """Refuse what cannot fit, ``sharers`` times over.

    Raises:
        ConfigError: the device, the host or the offload disk is too small; the message says by how much and what helps.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        if needs.device > total:
            raise ConfigError(
                f"{device} has {gib(total)}, but this run needs about {gib(needs.device)}: lower --batch-size, or use "
                "--device cpu."
            )
    free = psutil.virtual_memory().available / sharers
    if needs.host > free:
        who, share = ("this run", "") if sharers == 1 else (f"each of {sharers} processes", " for it")
        raise ConfigError(
            f"{who} needs about {gib(needs.host)} of memory, and {gib(free)} are free{share}: lower --batch-size or "
            "--samples, or put the activations on a disk with --offload-dir."
        )
    room = psutil.disk_usage(str(_existing(offload_dir))).free / sharers
    if needs.disk > room:
        raise ConfigError(
            f"the activations take {gib(needs.disk)}, and {offload_dir} has {gib(room)} free: choose another "
            "disk with --offload-dir, or lower --samples."
        )


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def gib(num_bytes: float) -> str:
    """Bytes for people."""
    return f"{num_bytes / 2**30:,.1f} GiB"
