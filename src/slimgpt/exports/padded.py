"""A stock checkpoint of a per-layer model: units of zeros bring every layer to the width of the widest (and of heads to
all that there ever were, where no stock class takes fewer), and blocks of zeros stand where one is gone.

Nothing changes in what the model computes: a channel of zeros gives zero, a head of zeros has values of zero, and the
columns of the consumer that read them are zero as well. It is surgery run backwards, from the same description of
sites, so it serves all families.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.config import ExportConfig
from slimgpt.exports.layout import widest_config
from slimgpt.exports.plan import Plan
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.skeleton import prunable_model
from slimgpt.output.assembly import assemble
from slimgpt.proof import Witness, alone, run_through, short_window
from slimgpt.sites import Site
from slimgpt.sites.projections import output_dim, surviving_rows


def plan_padded(checkpoint: Checkpoint, config: ExportConfig) -> Plan:
    """Find the stock class, and how much the padding costs.

    Raises:
        ConfigError: no stock class can hold the widest layer's sizes.
    """
    stock = widest_config(checkpoint)
    skeleton = prunable_model(stock, checkpoint.family)
    count = sum(parameter.numel() for parameter in skeleton.parameters())
    padding = count - checkpoint.num_params
    notes = (f"{stock.architectures[0]}, {count:,} parameters, {padding:,} of them padding.",)
    return Plan(
        count * checkpoint.dtype.itemsize,
        True,
        notes,
        partial(_write, checkpoint, stock, skeleton),
        partial(_witness, checkpoint),
    )


def _witness(checkpoint: Checkpoint) -> Witness:
    """What the model says without the padding."""
    layers = ((index, checkpoint.layer_state(index)) for index in range(len(checkpoint.layers)))
    ids_T = short_window(checkpoint, checkpoint.tokenizer())
    return run_through(checkpoint, ids_T, layers, alone(torch.device("cpu"), torch.float32, checkpoint.dtype))


def _write(checkpoint: Checkpoint, stock: Any, skeleton: nn.Module, folder: Path) -> None:
    """Layer by layer, so that only one is in memory."""
    shards = [folder.with_name(f"layer-{index:05d}.safetensors") for index in range(len(checkpoint.layers))]
    for index, shard in enumerate(shards):
        write_tensors(shard, _padded_layer(checkpoint, stock, skeleton, index))
    size = sum(parameter.numel() for parameter in skeleton.parameters()) * checkpoint.dtype.itemsize
    assemble(folder, checkpoint, shards, size, checkpoint.dtype, stock, checkpoint.tokenizer())


def _padded_layer(checkpoint: Checkpoint, stock: Any, skeleton: nn.Module, index: int) -> dict[str, Tensor]:
    layer = skeleton.get_submodule(checkpoint.family.layers)[index]  # type: ignore[index]
    state = checkpoint.layer_state(index)
    here = {site.name: site for site in checkpoint.sites(index)}
    for wide in checkpoint.family.sites(checkpoint.family.layer_config(stock, index)):
        site = here.get(wide.name)
        if site is not None and site.num_inputs < wide.num_inputs:
            state.update(pad_site(layer, wide, state, site))
    gone = {name: p for name, p in layer.named_parameters() if name not in state}
    state.update({name: torch.zeros(p.shape, dtype=checkpoint.dtype) for name, p in gone.items()})
    prefix = checkpoint.layer_prefix(index)
    return {prefix + name: tensor.contiguous() for name, tensor in state.items()}


def pad_site(layer: nn.Module, wide: Site, state: Mapping[str, Tensor], site: Site) -> dict[str, Tensor]:
    """The projections of ``site`` with zeros behind its units, as the ``wide`` site has them.

    Zeros stand behind the members of each unit too: a query head must find its keys at the place of its unit.
    """
    units, members = torch.arange(wide.num_units) < site.num_units, torch.arange(wide.members) < site.members
    kept_M = (units[:, None] & members).flatten()
    consumer = layer.get_submodule(wide.consumer)
    name = f"{wide.consumer}.weight"
    padded = {name: _spread(state[name], wide.kept_columns(kept_M), 1 - output_dim(consumer))}
    for path in {segment.path for segment in wide.producers}:
        producer = layer.get_submodule(path)
        for kind, parameter in producer.named_parameters():
            dim = output_dim(producer) if parameter.dim() > 1 else 0
            rows = surviving_rows(parameter.shape[dim], wide, path, kept_M)
            padded[f"{path}.{kind}"] = _spread(state[f"{path}.{kind}"], rows, dim)
    return padded


def _spread(tensor: Tensor, kept: Tensor, dim: int) -> Tensor:
    """``tensor`` along ``dim`` at the positions flagged True, zeros elsewhere: indexing by ``kept``, undone."""
    shape = list(tensor.shape)
    shape[dim] = len(kept)
    return tensor.new_zeros(shape).index_copy_(dim, kept.nonzero().flatten(), tensor)
