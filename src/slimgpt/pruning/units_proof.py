"""The units of a detected family, tried on the model's own weights before any of them goes.

Detection has looked at the code of a class without weights. Here, a layer at a time, half of the units of every site
are cut out, and the layer must put out what it does when they are there and not read.

Shapes: B windows (one) · T tokens · D residual width · N units of a site.
"""

from __future__ import annotations

import math
from contextlib import closing

import torch
from torch import Tensor, nn

from slimgpt.detection.rehearsal import half_of, unchanged
from slimgpt.errors import ModelError
from slimgpt.machine.setup import Machine
from slimgpt.model import surgery
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.config_by_path import state_sizes_
from slimgpt.model.layer_loading import materialised, read_layer
from slimgpt.proof.agreement import TOLERANCES
from slimgpt.sites import Kept, Removal, Site
from slimgpt.sites.projections import weight_OI
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.stream import ActivationStream

TOKENS = 32


@torch.inference_mode()
def prove_units(checkpoint: Checkpoint, windows_BT: Tensor, machine: Machine) -> None:
    """Try every site of every layer on the beginning of the first window.

    Raises:
        ModelError: cut and not read are two things somewhere; nothing has been pruned yet.
    """
    ids_BT, dtype = windows_BT[:1, :TOKENS], machine.compute_dtype
    with closing(ActivationStream(checkpoint, ids_BT, machine.device, dtype, 1, ActivationRoom(dtype))) as stream:
        for index, layer in enumerate(checkpoint.layers):
            with materialised(layer, read_layer(checkpoint, index, dtype), machine.device, dtype):
                for site in checkpoint.sites(index):
                    difference = _difference(checkpoint, stream, index, site)
                    if not difference <= TOLERANCES[dtype]:
                        raise ModelError(
                            f"{checkpoint.source}: what was detected in this type of model does not hold on its "
                            f"weights: without half of its {site.unit}s, layer {index} differs at {site.consumer} by "
                            f"{difference:.1%} of its outputs from the layer that does not read them. Nothing was "
                            "pruned. Please report this."
                        )
                stream.advance(layer, index)


def _difference(checkpoint: Checkpoint, stream: ActivationStream, index: int, site: Site) -> float:
    """Of the layer that is cut from the layer that does not read, relative to what it puts out."""
    layer, kept_N = checkpoint.layers[index], half_of(site)
    columns_I = site.kept_columns(kept_N).to(stream.residual_BTD.device)
    hook = layer.get_submodule(site.consumer).register_forward_pre_hook(lambda _, args: (args[0] * columns_I,))
    try:
        masked_BTD = stream.output(layer, index)
    finally:
        hook.remove()
    with unchanged(layer):
        _cut(checkpoint, layer, index, site, kept_N, columns_I)
        try:
            sliced_BTD = stream.output(layer, index)
        except RuntimeError:  # shapes that do not go together
            return math.inf
    return float((sliced_BTD - masked_BTD).norm() / masked_BTD.norm())


def _cut(checkpoint: Checkpoint, layer: nn.Module, index: int, site: Site, kept_N: Tensor, columns_I: Tensor) -> None:
    """As pruning does it, without repair."""
    weight = weight_OI(layer.get_submodule(site.consumer))[:, columns_I]
    surgery.remove(layer, site, Removal(kept_N, weight, 0.0, torch.empty(0)))
    state_sizes_(checkpoint, layer, index, {site.part: Kept(int(kept_N.sum()))})
