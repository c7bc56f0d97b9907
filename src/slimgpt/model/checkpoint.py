"""Opens a dense model without holding it: configuration, tokenizer, and weights that are read when asked for.

A model is a local Hugging Face folder, a hub id, or a ``.gguf`` file. Only safetensors and GGUF are read, never
pickles. Everything that can be wrong with a checkpoint is found here, before any work starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.arch import is_tested
from slimgpt.arch.family import Family
from slimgpt.errors import ModelError
from slimgpt.model import generation_settings
from slimgpt.model.belonging import check_belong, check_layers, check_writes
from slimgpt.model.config_file import CONFIG, MEND, check_counts, make_config, read_settings, refuse_quantised
from slimgpt.model.conversion import Converted
from slimgpt.model.families import PROVED, family_for
from slimgpt.model.gguf_file import open_gguf
from slimgpt.model.naming import Renamed
from slimgpt.model.reading import border
from slimgpt.model.schema import check_schema
from slimgpt.model.skeleton import empty_model, prunable_model, shapes_alone
from slimgpt.model.source import resolve
from slimgpt.model.tokenizer import load_tokenizer
from slimgpt.model.weights import SafetensorsWeights, Weights
from slimgpt.sites import Site
from slimgpt.sites.projections import misfits

SAMPLE = 1024  # entries of each tensor that a fingerprint looks at


@dataclass(frozen=True)
class Checkpoint:
    """A dense model, opened and checked, not loaded.

    Attributes:
        source: what the user named.
        path: local folder or GGUF file.
        config: transformers configuration, without quantisation.
        family: how its layers are described.
        skeleton: the causal LM with parameters on the meta device and real buffers.
        weights: its tensors under the skeleton's names.
        dtype: dtype of the stored weights.
        num_params: parameters of the whole model, tied ones once.
    """

    source: str
    path: Path
    config: Any
    family: Family
    skeleton: nn.Module
    weights: Weights
    dtype: torch.dtype
    num_params: int

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers of the skeleton."""
        layers = self.skeleton.get_submodule(self.family.layers)
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def width(self) -> int:
        """D, of the residual stream."""
        return self.family.stream_width or int(self.config.get_text_config(decoder=True).hidden_size)

    @property
    def vocabulary(self) -> int:
        """V, tokens that have an embedding."""
        skeleton: Any = self.skeleton
        return int(skeleton.get_input_embeddings().weight.shape[0])

    def layer_config(self, index: int) -> Any:
        """What its family says of one layer from: its own configuration where sizes are per layer, else the model's."""
        return self.family.layer_config(self.config, index)

    def sites(self, index: int | None) -> tuple[Site, ...]:
        """Sites of one layer, or (None) of the model behind its layers, in the order in which they are pruned."""
        return (
            self.family.sites_beside(self.config) if index is None else sites_of(self.family, self.layer_config(index))
        )

    def part(self, index: int | None) -> nn.Module:
        """The module that the paths of those sites are in: a layer, or the causal LM."""
        return self.skeleton if index is None else self.layers[index]

    def layer_prefix(self, index: int | None) -> str:
        """What the names of a layer's tensors start with; those beside the layers (None) are whole."""
        return "" if index is None else f"{self.family.layers}.{index}."

    def layer_state(self, index: int) -> dict[str, Tensor]:
        """Weights of one decoder layer by their names inside the layer."""
        prefix = self.layer_prefix(index)
        return {name: self.weights.get(prefix + name) for name in self.layers[index].state_dict()}

    def other_names(self) -> list[str]:
        """Names of the parameters outside the decoder layers: embeddings, final norm, head."""
        inside = self.family.layers + "."
        return [name for name, _ in self.skeleton.named_parameters() if not name.startswith(inside)]

    def buffers_beside(self) -> list[str]:
        """Names of stored tensors outside the decoder layers that are no parameters, such as a batch norm's means."""
        inside, stored = self.family.layers + ".", set(self.weights.names())
        kept = set(self.skeleton.state_dict()) & stored
        return [name for name, _ in self.skeleton.named_buffers() if name in kept and not name.startswith(inside)]

    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ModelError: there is none, or it cannot be read.
        """
        return load_tokenizer(self.path)

    def fingerprint(self) -> str:
        """sha256 over configuration and the beginning of every tensor: tells one model from another.

        Of every tensor, because fine-tuned models may share their embeddings, or all but a few projections.
        """
        settings = {key: value for key, value in self.config.to_dict().items() if key != "_name_or_path"}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name in sorted(self.weights.names()):
            sample = self.weights.get(name).flatten()[:SAMPLE]
            digest.update(name.encode())
            digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def skipped(layer_config: Any) -> Collection[str]:
    """Parts that a layer has lost as a whole: upstream's key, with our names of parts."""
    return getattr(layer_config, "skip", None) or ()


def sites_of(family: Family, layer_config: Any) -> tuple[Site, ...]:
    """Sites of a layer, without those of parts that it has lost."""
    gone = skipped(layer_config)
    return tuple(site for site in family.sites(layer_config) if site.part not in gone)


def open_checkpoint(model: str, families: str = PROVED) -> Checkpoint:
    """Open ``model`` (folder, hub id or GGUF file) and check it from end to end, reading only headers.

    Where no tested family describes it, its layers are looked at without weights, if ``families`` lets them.

    Raises:
        ModelError: see the module's text; the message says what is wrong, where, and what to do.
    """
    path = resolve(model)
    config, stored = open_gguf(path) if path.is_file() else open_folder(path)
    return opened(model, path, config, stored, _family(path, config, stored, families))


def opened(model: str, path: Path, config: Any, stored: Weights, family: Family) -> Checkpoint:
    """A checkpoint whose layers ``family`` describes, its weights checked against the configuration.

    Raises:
        ModelError: they do not belong together.
    """
    skeleton, weights = _fitted(path, config, family, stored)
    config.architectures = [type(skeleton).__name__]  # it may name none, or the model without its head
    first = next(name for name, _ in skeleton.named_parameters() if name.startswith(f"{family.layers}."))
    dtype = weights.dtype(first)
    assert isinstance(dtype, torch.dtype)
    return Checkpoint(
        source=model,
        path=path,
        config=config,
        family=family,
        skeleton=skeleton,
        weights=weights,
        dtype=dtype,
        num_params=sum(parameter.numel() for parameter in skeleton.parameters()),
    )


def _family(path: Path, config: Any, stored: Weights, accepted: str) -> Family:
    """The family; a configuration that nobody has described is only looked at when the weights have borne it out."""
    if not is_tested(config.model_type) and accepted == PROVED:
        with border(f"{path}: {CONFIG} is not valid", MEND):
            skeleton = shapes_alone(config)
            weights = Converted(stored, skeleton)
        check_belong(path, skeleton, weights)
    return family_for(config, accepted)


def _fitted(path: Path, config: Any, family: Family, stored: Weights) -> tuple[nn.Module, Weights]:
    """The skeleton, and the weights under its names.

    It is built without its buffers first: the largest of them would take memory without bound if a configuration said
    sizes that are not the weights'.
    """
    for build in (shapes_alone, empty_model):
        with border(f"{path}: {CONFIG} is not valid", MEND):
            skeleton = prunable_model(config, family, build)
        weights = _under_names(stored, skeleton, family)
        check_belong(path, skeleton, weights)
        check_layers(path, skeleton, family.layers)
        _check_sites(path, config, family, skeleton)
    return skeleton, weights


def _under_names(stored: Weights, skeleton: Any, family: Family) -> Weights:
    """Of tested families we say ourselves what tensors are called; of others, transformers does."""
    if family.tested:
        return Renamed(stored, skeleton.state_dict(), str(skeleton.base_model_prefix), family.spellings)
    return Converted(stored, skeleton)


def _check_sites(path: Path, config: Any, family: Family, skeleton: nn.Module) -> None:
    """See that the family's description fits the modules."""
    layers = skeleton.get_submodule(family.layers).children()
    places = [(layer, sites_of(family, family.layer_config(config, index))) for index, layer in enumerate(layers)]
    for part, sites in [*places, (skeleton, family.sites_beside(config))]:
        if (slip := next(misfits(part, sites), None)) is not None:
            raise ModelError(f"{path}: {CONFIG} contradicts itself: {slip}. {MEND}")


def open_folder(path: Path) -> tuple[Any, Weights]:
    """The configuration of a folder, and its tensors as they are stored.

    Raises:
        ModelError: it cannot be read, or is not what slimgpt makes smaller.
    """
    settings = read_settings(path)
    check_schema(path)
    refuse_quantised(path, settings)
    weights = SafetensorsWeights(path)
    check_counts(path, settings, len(list(weights.names())))
    check_writes(path, settings, weights)
    config = make_config(path, settings)
    generation_settings.check_settings(path, settings, config)
    return config, weights
