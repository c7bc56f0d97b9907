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
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from slimgpt.arch import FAMILIES, family_of
from slimgpt.arch.family import Family, check_sites
from slimgpt.errors import ModelError
from slimgpt.model.naming import Renamed
from slimgpt.model.schema import check_schema
from slimgpt.model.skeleton import prunable_model
from slimgpt.model.weights import LoadedWeights, SafetensorsWeights, Weights
from slimgpt.modeling_slimgpt import register
from slimgpt.sites import Site

SAMPLE = 1024  # entries of each tensor that a fingerprint looks at
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "*.tiktoken", "*.txt"]
HUB_FILES += ["LICEN[CS]E*", "COPYING*", "NOTICE*", "*USE_POLICY*"]


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

    def layer_config(self, index: int) -> Any:
        """Configuration of one layer: its own where sizes are per layer, else the model's."""
        return self.config.per_layer_config[index]

    def sites(self, index: int | None) -> tuple[Site, ...]:
        """Sites of one layer, or (None) of the model behind its layers, in the order in which they are pruned."""
        family = self.family
        sites = family.sites_beside(self.config) if index is None else family.sites(self.layer_config(index))
        gone = () if index is None else skipped(self.layer_config(index))
        sites = tuple(site for site in sites if site.part not in gone)
        check_sites(self.part(index), sites)
        return sites

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


def open_checkpoint(model: str) -> Checkpoint:
    """Open ``model`` (folder, hub id or GGUF file) and check it from end to end, reading only headers.

    Raises:
        ModelError: see the module's text; the message says what is wrong, where, and what to do.
    """
    register()
    path = resolve(model)
    if path.is_file():
        config, weights = _open_gguf(path)
    else:
        config, weights = _open_folder(path)
    family = family_of(config)
    skeleton = _skeleton(path, config, family)
    weights = Renamed(weights, skeleton.state_dict(), str(skeleton.base_model_prefix), family.spellings)
    _check_head(path, skeleton, weights)
    _check_shapes(path, skeleton, weights)
    first = next((name for name, _ in skeleton.get_submodule(family.layers).named_parameters()), None)
    if first is None:
        raise ModelError(f"{path}: config.json says that there are no decoder layers, so there is nothing to work on.")
    return Checkpoint(
        source=model,
        path=path,
        config=config,
        family=family,
        skeleton=skeleton,
        weights=weights,
        dtype=_float_dtype(path, weights.get(f"{family.layers}.{first}")),
        num_params=sum(parameter.numel() for parameter in skeleton.parameters()),
    )


def resolve(model: str) -> Path:
    """Local path of a model: a folder, a ``.gguf`` file, or the snapshot of a hub id.

    Raises:
        ModelError: nothing of that name is here, and the hub does not have it or cannot be reached.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"model {model!r} is a file, but not a .gguf file: name the folder of the checkpoint.")
        return path
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or path.suffix == ".gguf":
        raise ModelError(f"model {model!r} does not exist: name a local folder, a .gguf file or a hub id.")
    return _download(model)


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=HUB_FILES))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelError(
            f"model {repo!r} is neither a local folder nor to be had from the hub ({last_line(error)}). "
            "Check the name, or the connection, or name a local folder or .gguf file."
        ) from error


def load_tokenizer(path: Path) -> Any:
    """Tokenizer of a local folder or GGUF file.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    where = {"gguf_file": path.name} if path.is_file() else {}
    try:
        return AutoTokenizer.from_pretrained(path.parent if path.is_file() else path, **where)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise ModelError(
            f"no tokenizer can be read from {path} ({last_line(error)}). "
            "Put tokenizer.json (and tokenizer_config.json) beside the weights."
        ) from error


def _open_folder(path: Path) -> tuple[Any, Weights]:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json: it is not a Hugging Face model folder.")
    check_schema(path)
    try:
        stored = json.loads((path / "config.json").read_text())
        model_type = str(stored.get("model_type"))
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path / 'config.json'} is not a JSON object: {error}. Download it again.") from error
    if stored.get("quantization_config"):
        raise ModelError(f"{path} is quantised, and quantised weights cannot be repaired: name the original model.")
    family_of(_ModelType(model_type))  # an unknown family is refused in our words, not in transformers'
    try:
        config = AutoConfig.from_pretrained(path)
    except (ValueError, TypeError, OSError, StrictDataclassError) as error:
        raise _not_valid(path, error) from error
    return config, SafetensorsWeights(path)


def _skeleton(path: Path, config: Any, family: Family) -> nn.Module:
    try:
        return prunable_model(config, family)
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise _not_valid(path, error) from error


def _not_valid(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path}: config.json is not valid ({last_line(error)}). Download it again, or mend it.")


def last_line(error: Exception) -> str:
    """What an error of another library says in the end; the lines before tend to repeat it."""
    return (str(error).strip().splitlines() or [repr(error)])[-1].strip().rstrip(".")


@dataclass(frozen=True)
class _ModelType:
    model_type: str


def _open_gguf(path: Path) -> tuple[Any, Weights]:
    """transformers dequantises a GGUF file as it loads; we take its weights and a plain configuration."""
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except Exception as error:  # readers of foreign bytes stumble in every way there is
        raise ModelError(
            f"{path} cannot be read as GGUF ({last_line(error)}). Download it again if it is damaged. "
            f"Supported families: {', '.join(sorted(FAMILIES))}."
        ) from error
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(model.config).from_dict(settings)
    config.architectures = [type(model).__name__]
    return config, LoadedWeights(model.state_dict())


def _float_dtype(path: Path, tensor: Tensor) -> torch.dtype:
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise ModelError(
            f"{path} stores its weights as {str(tensor.dtype).removeprefix('torch.')}, which cannot be repaired: "
            "name the original model in float32, float16 or bfloat16."
        )
    return tensor.dtype


def _check_head(path: Path, skeleton: Any, weights: Weights) -> None:
    """Configuration and weights have to agree on whether the head is the embedding or a matrix of its own."""
    modules = {id(module): f"{name}.weight" for name, module in skeleton.named_modules()}
    embedding, head = modules[id(skeleton.get_input_embeddings())], modules[id(skeleton.get_output_embeddings())]
    tied = skeleton.get_output_embeddings().weight is skeleton.get_input_embeddings().weight
    stored = head in set(weights.names())
    if not tied and not stored:
        raise ModelError(
            f"{path}: tensor {head!r} is missing, and config.json says that it is not the embedding. Set "
            "tie_word_embeddings to true if it is, else download the checkpoint again."
        )
    if tied and stored and not torch.equal(weights.get(head), weights.get(embedding)):
        raise ModelError(
            f"{path}: config.json says tie_word_embeddings, but {head!r} differs from {embedding!r}. Set it "
            "to false, or remove the tensor, whichever is right."
        )


def _check_shapes(path: Path, skeleton: nn.Module, weights: Weights) -> None:
    present = set(weights.names())
    for name, parameter in skeleton.named_parameters():
        if name not in present:
            raise ModelError(f"{path}: tensor {name!r} is missing. config.json and the weights do not belong together.")
        if weights.shape(name) != tuple(parameter.shape):
            raise ModelError(
                f"{path}: tensor {name!r} has shape {list(weights.shape(name))}, but config.json says "
                f"{list(parameter.shape)}. They do not belong together."
            )
