"""The numbers of a model that the memory of a run goes by.

Shapes: O consumer outputs · I consumer inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from slimgpt.arch.family import weight_OI
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.sites import Site, by_part
from slimgpt.streaming.stream import keeps_input


@dataclass(frozen=True)
class SiteSize:
    """One site.

    Attributes:
        num_outputs: O.
        num_inputs: I.
        num_units: units at hand.
        kept: what enters it is kept until its layer is done.
    """

    num_outputs: int
    num_inputs: int
    num_units: int
    kept: bool


@dataclass(frozen=True)
class LayerSize:
    """One decoder layer.

    Attributes:
        params: parameters.
        largest: numbers of its largest tensor.
        parts: its sites, those of one part together.
    """

    params: int
    largest: int
    parts: tuple[tuple[SiteSize, ...], ...]

    @property
    def sites(self) -> list[SiteSize]:
        """Those of all parts."""
        return [site for part in self.parts for site in part]

    @property
    def widest(self) -> int:
        """Inputs of the widest site."""
        return max((site.num_inputs for site in self.sites), default=0)

    @property
    def kept(self) -> int:
        """Numbers a token that are kept until the layer is done."""
        return sum(site.num_inputs for site in self.sites if site.kept)


@dataclass(frozen=True)
class ModelSize:
    """A whole model.

    Attributes:
        hidden: width of the residual stream.
        vocabulary: tokens.
        params: of the whole.
        rest: parameters outside the decoder layers.
        layers: each of them.
        in_memory: its weights are there already, as a GGUF file's are.
        file_bytes: a number takes in its files.
        heads: of attention.
        eager: its attention forms all scores at once.
    """

    hidden: int
    vocabulary: int
    params: int
    rest: int
    layers: tuple[LayerSize, ...]
    in_memory: bool
    file_bytes: int
    heads: int
    eager: bool

    @property
    def all_layers(self) -> int:
        """Parameters of all decoder layers."""
        return sum(layer.params for layer in self.layers)

    def read(self, num: int, dtype: torch.dtype) -> int:
        """Bytes of so many weights in ``dtype`` that are taken as they come: where nothing changes it is no copy, but
        a mapped file is memory too."""
        if self.file_bytes == dtype.itemsize:
            return 0 if self.in_memory else num * dtype.itemsize
        return num * dtype.itemsize


def model_size(checkpoint: Checkpoint, device: torch.device) -> ModelSize:
    """Of an opened model."""
    config = checkpoint.config
    layers = tuple(_layer(checkpoint, index, device) for index in range(len(checkpoint.layers)))
    heads = [getattr(checkpoint.layer_config(index), "num_attention_heads", 0) for index in range(len(layers))]
    return ModelSize(
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        params=checkpoint.num_params,
        rest=sum(checkpoint.skeleton.get_parameter(name).numel() for name in checkpoint.other_names()),
        layers=layers,
        in_memory=checkpoint.path.is_file(),
        file_bytes=checkpoint.dtype.itemsize,
        heads=max(heads),
        eager=getattr(config, "_attn_implementation", None) == "eager",
    )


def _layer(checkpoint: Checkpoint, index: int, device: torch.device) -> LayerSize:
    layer = checkpoint.layers[index]
    sizes = [parameter.numel() for parameter in layer.parameters()]

    def site_size(site: Site) -> SiteSize:
        num_outputs, num_inputs = weight_OI(layer.get_submodule(site.consumer)).shape
        return SiteSize(num_outputs, num_inputs, site.num_units, keeps_input(site, device))

    parts = tuple(tuple(map(site_size, part)) for part in by_part(checkpoint.sites(index)))
    return LayerSize(sum(sizes), max(sizes), parts)
