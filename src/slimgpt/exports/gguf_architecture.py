"""Which of llama.cpp's architectures computes what a model does, and how its tensors differ from ours.

``deci`` is a Llama whose layers have their own head counts and FFN widths. Models whose layers are of one size go under
their family's own architecture where that takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgpt.arch.family import head_dim, rope_types
from slimgpt.errors import ConfigError
from slimgpt.exports.layout import is_uniform
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.inspection import layer_sizes
from slimgpt.modeling_slimgpt import PREFIX

MIN_FFN_CHANNELS = 32  # a narrower FFN is not something that llama.cpp's kernels are tried with, and 0 drops attention
ROPE_TYPES = ("default", "linear", "llama3")  # those that only divide frequencies


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp runs a family.

    Attributes:
        name: its name there.
        interleaved: rotary embedding turns channels 2i and 2i + 1 together, not i and i + head_dim / 2.
        per_layer: layers may differ.
        any_heads: heads may be narrower or wider together than the residual stream.
        rope_factors: reads one factor per rotary frequency from the file.
    """

    name: str
    interleaved: bool
    per_layer: bool
    any_heads: bool
    rope_factors: bool


DECI = Architecture("deci", interleaved=True, per_layer=True, any_heads=True, rope_factors=True)
LLAMA = Architecture("llama", interleaved=True, per_layer=False, any_heads=True, rope_factors=True)
QWEN2 = Architecture("qwen2", interleaved=False, per_layer=False, any_heads=False, rope_factors=False)
QWEN3 = Architecture("qwen3", interleaved=False, per_layer=False, any_heads=True, rope_factors=False)

ARCHITECTURES = {
    "llama": (LLAMA, DECI),
    "mistral": (LLAMA, DECI),
    "qwen2": (QWEN2, DECI),
    "qwen3": (QWEN3,),  # its norms of q and k have no place in deci
}
"""Stock model_type -> the architectures that compute the same, the first that fits is taken."""


def choose(checkpoint: Checkpoint) -> Architecture:
    """The architecture under which llama.cpp computes what the model does.

    Raises:
        ConfigError: there is none for this family, layout, activation or rotary scaling.
    """
    model_type = checkpoint.config.model_type.removeprefix(PREFIX)
    if model_type not in ARCHITECTURES:
        raise ConfigError(
            f"--format gguf writes {', '.join(ARCHITECTURES)}, not {model_type}. A model of --layout uniform or "
            "--format padded is a stock one: llama.cpp's own convert_hf_to_gguf.py takes it."
        )
    _check_computed_alike(checkpoint)
    fitting = [architecture for architecture in ARCHITECTURES[model_type] if _fits(architecture, checkpoint)]
    if not fitting:
        raise ConfigError(
            f"llama.cpp has no architecture for a {model_type} with per-layer sizes or scaled rotary frequencies. "
            "Layouts that fit: --layout uniform, or --format padded, with llama.cpp's own convert_hf_to_gguf.py."
        )
    return fitting[0]


def _fits(architecture: Architecture, checkpoint: Checkpoint) -> bool:
    heads_width = layer_sizes(checkpoint, 0)["num_attention_heads"] * head_dim(checkpoint.config)
    return (
        (architecture.per_layer or is_uniform(checkpoint))
        and (architecture.any_heads or heads_width == checkpoint.config.hidden_size)
        and (architecture.rope_factors or rope_factors(checkpoint) is None)
    )


def _check_computed_alike(checkpoint: Checkpoint) -> None:
    """Refuse what llama.cpp would silently compute otherwise."""
    config = checkpoint.config
    if config.hidden_act != "silu":
        raise ConfigError(f"llama.cpp computes silu in these models, but this one has {config.hidden_act!r}.")
    for rope_type in rope_types(config) - set(ROPE_TYPES):
        raise ConfigError(f"rotary scaling {rope_type!r} cannot be written; those that can: {', '.join(ROPE_TYPES)}.")
    narrow = min(layer_sizes(checkpoint, index)["intermediate_size"] for index in range(len(checkpoint.layers)))
    if narrow < MIN_FFN_CHANNELS:
        raise ConfigError(
            f"a layer has {narrow} FFN channels, but llama.cpp needs {MIN_FFN_CHANNELS}: prune with a smaller --ratio, "
            "or --round-to 32."
        )


def interleave(rows: Tensor, width: int) -> Tensor:
    """Reorder the output rows of q or k, head (of ``width`` channels) by head: 0, d/2, 1, d/2 + 1, …

    A rotary embedding turns pairs of channels. transformers pairs i with i + d/2, llama.cpp's ``llama`` and ``deci``
    pair 2i with 2i + 1, at the same frequency i. Scores q·k do not change when q and k are reordered alike, so pair i
    is put where llama.cpp looks for it.
    """
    return rows.unflatten(0, (-1, 2, width // 2)).transpose(1, 2).flatten(0, 2)


def rope_factors(checkpoint: Checkpoint) -> np.ndarray[Any, Any] | None:
    """By what each rotary frequency is divided; None where none is.

    transformers has computed the scaled frequencies already, whatever the rule; the plain ones are θ^(-2i/d).
    """
    width = head_dim(checkpoint.config)
    scaled = next(buffer for name, buffer in checkpoint.skeleton.named_buffers() if name.endswith("inv_freq")).double()
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    factors = checkpoint.config.rope_parameters["rope_theta"] ** -exponents / scaled
    if torch.allclose(factors, torch.ones_like(factors), rtol=1e-5):
        return None
    return factors.float().numpy()
