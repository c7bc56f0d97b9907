"""Slices the weights of one decoder layer. The only writer of parameters."""

from __future__ import annotations

from torch import Tensor, nn

from slimgpt.sites import Removal, Site
from slimgpt.sites.projections import output_dim, surviving_rows, tensors_of_rows, weight_OI


def remove(layer: nn.Module, site: Site, removal: Removal) -> None:
    """Cut the units that ``removal`` drops out of ``layer``, in place.

    The consumer takes the repaired weight; the producers lose the matching rows and bias entries. The consumer's own
    bias stays, unless the solver has moved it: it belongs to the outputs.
    """
    for path in dict.fromkeys(segment.path for segment in site.producers):
        _keep_rows_(layer, site, path, removal.kept_N)
    replace_weight(layer, site.consumer, removal.weight_OI)
    if removal.bias_O is not None:
        _assign_(layer.get_submodule(site.consumer), "bias", removal.bias_O)


def replace_weight(layer: nn.Module, path: str, new_OI: Tensor) -> None:
    """Give the projection at ``path`` inside ``layer`` another weight, in place; its dtype and device stay."""
    module = layer.get_submodule(path)
    _assign_(module, "weight", (new_OI.T if output_dim(module) == 1 else new_OI).contiguous())
    _restate_shape_(module)


def _keep_rows_(layer: nn.Module, site: Site, path: str, kept_N: Tensor) -> None:
    for name, dim in tensors_of_rows(layer, path):
        owner, _, leaf = name.rpartition(".")
        whole = layer.get_parameter(name)
        rows = surviving_rows(whole.shape[dim], site, path, kept_N).nonzero().squeeze(1).to(whole.device)
        _assign_(layer.get_submodule(owner), leaf, whole.index_select(dim, rows))
        if owner == path:  # a projection
            _restate_shape_(layer.get_submodule(owner))


def _assign_(module: nn.Module, name: str, value: Tensor) -> None:
    old = module.get_parameter(name)
    setattr(module, name, nn.Parameter(value.to(old.device, old.dtype), requires_grad=old.requires_grad))


def _restate_shape_(module: nn.Module) -> None:
    """Keep the sizes a projection prints in step with its weight."""
    outputs, inputs = weight_OI(module).shape
    names = ("nf", "nx") if output_dim(module) == 1 else ("out_features", "in_features")
    for name, size in zip(names, (outputs, inputs), strict=True):
        setattr(module, name, int(size))
