"""Weights of fewer bits, by torchao, in a model that is loaded: what quantisation adds to pruning's cost in quality.

Only the linear layers of the decoder are quantised. Embeddings and the head, which are often one tensor, stay as they
are. torchao is optional: ``pip install 'slimgpt[quantise]'``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimgpt.errors import ConfigError

Scheme = Literal["int8", "int4"]
GROUP = 32  # int4: inputs that share a scale, as in GGUF's q4_0; a narrower layer's whole row
BITS = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Quantised:
    """What was done to a model.

    Attributes:
        scheme: int8 (one scale an output) or int4 (one scale for 32 inputs of an output).
        library: that did it.
        weights: numbers that are now stored in few bits.
        packed_bytes: of all weights if each such number took its bits and no more. torchao's kernels for CPUs keep
            int4 one to a byte, so a process takes more.
    """

    scheme: str
    library: str
    weights: int
    packed_bytes: int

    def record(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def require_library(scheme: str) -> None:
    """Raise ConfigError where torchao is not installed, which is before any work."""
    if find_spec("torchao") is None:
        raise ConfigError(f"--quantise {scheme} needs torchao: pip install 'slimgpt[quantise]'.")


def quantise_(model: Any, scheme: Scheme) -> Quantised:
    """Round the weights of the decoder's linear layers in place; activations stay as they are.

    Raises:
        ConfigError: there is no linear layer that torchao knows, as in GPT-2.
    """
    logging.getLogger("torchao").setLevel(logging.ERROR)  # kernels for GPUs that it misses are no news on a CPU
    from torchao.quantization import quantize_

    chosen = [module for module in model.modules() if _is_quantised(module, model)]
    if not chosen:
        raise ConfigError(
            f"--quantise {scheme}: {type(model).__name__} has no nn.Linear layers, which torchao quantises."
        )
    packed = _packed_bytes(model, [module.weight for module in chosen], scheme)
    weights = sum(module.weight.numel() for module in chosen)
    for module in chosen:
        quantize_(
            module, _settings(scheme, module.weight.shape[1]), filter_fn=lambda own, _: isinstance(own, nn.Linear)
        )
    return Quantised(scheme, f"torchao {version('torchao')}", weights, packed)


def _is_quantised(module: nn.Module, model: Any) -> bool:
    return isinstance(module, nn.Linear) and module is not model.get_output_embeddings()


def _packed_bytes(model: Any, weights: Sequence[Tensor], scheme: str) -> int:
    """Bytes of what stays as it is, of the few bits, and of their scales, which have the model's dtype."""
    untouched = sum(parameter.nbytes for parameter in model.parameters()) - sum(weight.nbytes for weight in weights)
    scales = sum(len(weight) * _scales(scheme, weight.shape[1]) for weight in weights)
    return untouched + sum(weight.numel() for weight in weights) * BITS[scheme] // 8 + scales * model.dtype.itemsize


def _scales(scheme: str, inputs: int) -> int:
    """Scales of one output."""
    return 1 if scheme == "int8" or inputs % GROUP else inputs // GROUP


def _settings(scheme: str, inputs: int) -> Any:
    """torchao's own configuration."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerAxis, PerGroup

    if scheme == "int8":
        return Int8WeightOnlyConfig()
    granularity = PerAxis(0) if inputs % GROUP else PerGroup(GROUP)
    return IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=granularity)  # type: ignore[attr-defined]
