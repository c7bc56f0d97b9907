"""A model without biases as the same model with biases of zero, so that something can be put into them.

A family says which keys of its configuration give the consumers of all sites a bias (``Family.bias_keys``). The keys
give biases to producers as well, which stay zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.skeleton import prunable_model
from slimgpt.model.weights import Weights


class WithZeros:
    """Tensors of which some are not stored, and are zero.

    Args:
        weights: what is stored.
        zeros: name -> an empty parameter of the shape that is not stored.
        dtype: of the zeros.
    """

    def __init__(self, weights: Weights, zeros: dict[str, nn.Parameter], dtype: torch.dtype) -> None:
        self._weights = weights
        self._zeros = zeros
        self._dtype = dtype

    def names(self) -> Iterator[str]:
        """All names."""
        yield from self._weights.names()
        yield from self._zeros

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self._zeros[name].shape) if name in self._zeros else self._weights.shape(name)

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of the tensor."""
        return self._dtype if name in self._zeros else self._weights.dtype(name)

    def get(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        if name in self._zeros:
            return torch.zeros(self.shape(name), dtype=self._dtype)
        return self._weights.get(name)


def with_biases(checkpoint: Checkpoint) -> Checkpoint:
    """The same model whose consumers have biases, if its family can carry them; else the checkpoint as it is."""
    keys = [key for key in checkpoint.family.bias_keys if not getattr(checkpoint.config, key, True)]
    if not keys:
        return checkpoint
    config = copy.deepcopy(checkpoint.config)
    for key in keys:
        setattr(config, key, True)
    skeleton = prunable_model(config, checkpoint.family)
    stored = set(checkpoint.weights.names())
    zeros = {name: parameter for name, parameter in skeleton.named_parameters() if name not in stored}
    return replace(
        checkpoint,
        config=config,
        skeleton=skeleton,
        weights=WithZeros(checkpoint.weights, zeros, checkpoint.dtype),
        num_params=sum(parameter.numel() for parameter in skeleton.parameters()),
    )


def carried(checkpoint: Checkpoint) -> dict[str, bool]:
    """Which parts of a layer have a consumer with a bias (also where layers are cut already)."""
    layer, sites = checkpoint.layers[0], checkpoint.family.sites(checkpoint.layer_config(0))
    return {site.part: getattr(layer.get_submodule(site.consumer), "bias", None) is not None for site in sites}
