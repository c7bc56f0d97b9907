"""Projections, whichever way a family stores them, and the rows and columns in them that belong to a site.

Shapes: O outputs of a projection · I its inputs · N units of a site.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from slimgpt.sites import Segment, Site, expand

Rows = tuple[str, int]
"""A parameter's path in the layer, and the dimension of it that is cut with rows."""


def output_dim(module: nn.Module) -> int:
    """The dimension of ``module.weight`` that holds its outputs: GPT-2's Conv1D stores its weight transposed."""
    return 1 if is_transposed(module) else 0


def is_transposed(module: nn.Module) -> bool:
    """transformers' Conv1D, by the names of its sizes: whoever reads sites knows no library of models."""
    return hasattr(module, "nf") and hasattr(module, "nx")


def weight_OI(module: nn.Module) -> Tensor:
    """A projection's weight as outputs x inputs, whatever the family stores."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if output_dim(module) == 1 else weight


def projections(layer: nn.Module) -> dict[str, nn.Module]:
    """All projections of a decoder layer by their paths in it; a switch with a single output is none."""
    return {
        path: module
        for path, module in layer.named_modules()
        if (isinstance(module, nn.Linear) or is_transposed(module)) and weight_OI(module).shape[0] > 1
    }


def tensors_of_rows(layer: nn.Module, path: str) -> list[Rows]:
    """What is cut with rows at ``path``: a projection's weight and bias, or the entries of a plain parameter."""
    owner, _, leaf = path.rpartition(".")
    if leaf in layer.get_submodule(owner)._parameters:
        return [(path, 0)]
    module = layer.get_submodule(path)
    weight: Rows = (f"{path}.weight", output_dim(module))
    return [weight, (f"{path}.bias", 0)] if getattr(module, "bias", None) is not None else [weight]


def unit_params(layer: nn.Module, site: Site) -> int:
    """Parameters that leave with one unit: its consumer columns, producer rows and their biases."""
    return _params(layer, site, site.producers)


def member_params(layer: nn.Module, site: Site) -> int:
    """Parameters that leave with one member of a unit that stays."""
    return _params(layer, site, [segment for segment in site.producers if segment.by_member]) // site.members


def _params(layer: nn.Module, site: Site, segments: Sequence[Segment]) -> int:
    count = weight_OI(layer.get_submodule(site.consumer)).shape[0] * site.unit_width
    for segment in segments:
        tensors = [(layer.get_parameter(path), dim) for path, dim in tensors_of_rows(layer, segment.path)]
        count += segment.rows_per_unit * sum(tensor.numel() // tensor.shape[dim] for tensor, dim in tensors)
    return count


def misfits(layer: nn.Module, sites: tuple[Site, ...]) -> Iterator[str]:
    """Where a family's description does not fit the modules of a layer: a slip in a family file, or a configuration
    whose numbers of heads contradict each other.
    """
    for site in sites:
        parts = [site.unit_width, *(segment.rows_per_unit for segment in site.producers if segment.by_member)]
        if any(part % site.members for part in parts):
            yield f"{site.members} members do not divide {' or '.join(map(str, parts))} of {site.name}"
        width = weight_OI(layer.get_submodule(site.consumer)).shape[1]
        if width != site.num_units * site.unit_width:
            yield f"{site.consumer} has {width} inputs, not {site.num_units} times {site.unit_width}"
        for segment in site.producers:
            path, dim = tensors_of_rows(layer, segment.path)[0]
            rows = layer.get_parameter(path).shape[dim]
            last = segment.offset + site.num_units * segment.rows_per_unit
            if last > rows:
                yield f"{segment.path} has {rows} outputs, fewer than {last}"


def surviving_rows(num_rows: int, site: Site, path: str, kept_N: Tensor) -> Tensor:
    """bool over a producer's rows: True where the row stays when the units (or members) flagged False go.

    What belongs to a unit as a whole stays while any of its members does.
    """
    rows = torch.ones(num_rows, dtype=torch.bool)
    for segment in site.producers:
        if segment.path == path:
            size = site.num_units * segment.rows_per_unit
            flags = kept_N.cpu() if segment.by_member else kept_N.cpu().view(site.num_units, -1).any(1)
            rows[segment.offset : segment.offset + size] = expand(flags, size // len(flags))
    return rows
