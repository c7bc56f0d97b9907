"""GGUF for llama.cpp, written tensor by tensor.

llama.cpp's architecture ``deci`` is a Llama whose layers have their own head counts and FFN widths. Models whose layers
are of one size go under their family's own architecture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from torch import Tensor

from slimgpt.arch.family import head_dim
from slimgpt.checkpoint import Checkpoint
from slimgpt.config import ExportConfig
from slimgpt.errors import ConfigError, ModelError
from slimgpt.export.gguf_tokenizer import add_tokenizer
from slimgpt.export.layout import is_uniform
from slimgpt.export.plan import Plan
from slimgpt.inspection import layer_sizes
from slimgpt.modeling_slimgpt import PREFIX

QUANTIZATION_VERSION = 2
MIN_FFN_CHANNELS = 32  # a narrower FFN is not something that llama.cpp's kernels are tried with, and 0 drops attention


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp runs a family.

    Attributes:
        name: its name there.
        interleaved: rotary embedding turns channels 2i and 2i + 1 together, not i and i + head_dim / 2.
        rope_factors: reads one factor per rotary frequency from the file.
    """

    name: str
    interleaved: bool
    rope_factors: bool


LLAMA = Architecture("llama", interleaved=True, rope_factors=True)
DECI = Architecture("deci", interleaved=True, rope_factors=True)

UNIFORM = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": Architecture("qwen2", interleaved=False, rope_factors=False),
    "qwen3": Architecture("qwen3", interleaved=False, rope_factors=False),
}
PER_LAYER = {"llama": DECI, "mistral": DECI, "qwen2": DECI}  # Qwen3's norms of q and k have no place in deci

OUTTYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
}

ROPE_TYPES = ("default", "linear", "llama3")  # those that only divide frequencies


@dataclass(frozen=True)
class Entry:
    """A tensor of the file."""

    source: str
    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size


def plan_gguf(checkpoint: Checkpoint, config: ExportConfig) -> Plan:
    """Choose the architecture and the type of every tensor.

    Raises:
        ConfigError: llama.cpp has no architecture for this family and layout, or for its rotary scaling.
        ModelError: a tensor or a tokenizer that GGUF has no place for.
    """
    architecture = _architecture(checkpoint)
    entries = list(_entries(checkpoint, architecture, config.outtype))
    notes = [f"Architecture {architecture.name}, {len(entries)} tensors."]
    wanted = OUTTYPES[config.outtype][0]
    uneven = [entry for entry in entries if len(entry.shape) > 1 and entry.kind != wanted]
    if uneven:
        notes.append(
            f"{len(uneven)} tensors stay f16, as their rows are no multiple of {gguf.GGML_QUANT_SIZES[wanted][0]} "
            f"(first {uneven[0].name}, {uneven[0].shape[-1]}); pruning with --round-to 32 avoids that."
        )
    size = sum(entry.num_bytes for entry in entries)
    return Plan(size, False, tuple(notes), partial(_write, checkpoint, architecture, entries, config.outtype))


def _architecture(checkpoint: Checkpoint) -> Architecture:
    model_type = checkpoint.config.model_type.removeprefix(PREFIX)
    uniform = is_uniform(checkpoint)
    found = (UNIFORM if uniform else PER_LAYER).get(model_type)
    if found is None and model_type in UNIFORM:
        raise ConfigError(
            f"llama.cpp has no architecture for a per-layer {model_type} (it has for {', '.join(PER_LAYER)}). "
            "Layouts that fit --format gguf: uniform. Others: --format padded, then llama.cpp's convert_hf_to_gguf.py."
        )
    if found is None:
        raise ConfigError(
            f"--format gguf writes {', '.join(UNIFORM)}, not {model_type}. A uniform or padded model is a stock one: "
            "llama.cpp's own convert_hf_to_gguf.py takes it."
        )
    _check_suits(checkpoint, found)
    return found


def _check_suits(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Refuse what llama.cpp would silently compute otherwise."""
    config = checkpoint.config
    if config.hidden_act != "silu":
        raise ConfigError(f"llama.cpp's {architecture.name} computes silu, but the model has {config.hidden_act!r}.")
    rope_type = config.rope_parameters.get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        raise ConfigError(f"rotary scaling {rope_type!r} cannot be written; those that can: {', '.join(ROPE_TYPES)}.")
    if rope_type != "default" and not architecture.rope_factors:
        raise ConfigError(
            f"llama.cpp's {architecture.name} cannot hold rotary scaling {rope_type!r}: use --format padded."
        )
    narrow = min(layer_sizes(checkpoint, index)["intermediate_size"] for index in range(len(checkpoint.layers)))
    if narrow < MIN_FFN_CHANNELS:
        raise ConfigError(
            f"a layer has {narrow} FFN channels, but llama.cpp needs {MIN_FFN_CHANNELS}: prune with a smaller --ratio, "
            "or --round-to 32."
        )


def _entries(checkpoint: Checkpoint, architecture: Architecture, outtype: str) -> Iterator[Entry]:
    """Every parameter once: a tied head is left out, and llama.cpp takes the embedding in its place."""
    kind = gguf.MODEL_ARCH_NAMES
    names = gguf.get_tensor_name_map(
        next(arch for arch in kind if kind[arch] == architecture.name), len(checkpoint.layers)
    )
    for source, parameter in checkpoint.skeleton.named_parameters():
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"{source!r} has no place in llama.cpp's {architecture.name}.")
        yield Entry(source, name, tuple(parameter.shape), tensor_type(tuple(parameter.shape), outtype))


def tensor_type(shape: tuple[int, ...], outtype: str) -> GGMLQuantizationType:
    """Matrices in the asked type, or f16 where rows do not divide into its blocks; vectors stay f32."""
    kind = OUTTYPES[outtype][0]
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    return kind if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder the output rows of q or k, head by head: 0, d/2, 1, d/2 + 1, …

    A rotary embedding turns pairs of channels. transformers pairs i with i + d/2, llama.cpp's ``llama`` and ``deci``
    pair 2i with 2i + 1, at the same frequency i. Scores q·k do not change when q and k are reordered alike, so pair i
    is put where llama.cpp looks for it.
    """
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def _write(checkpoint: Checkpoint, architecture: Architecture, entries: list[Entry], outtype: str, path: Path) -> None:
    writer = GGUFWriter(path, architecture.name)
    try:
        _add_metadata(writer, checkpoint, outtype)
        add_tokenizer(writer, checkpoint.tokenizer(), checkpoint.config.vocab_size)
        factors = rope_factors(checkpoint)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        for entry in entries:
            writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), entry.num_bytes, entry.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for entry in entries:
            writer.write_tensor_data(_data(checkpoint, architecture, entry))
    finally:
        writer.close()


def _data(checkpoint: Checkpoint, architecture: Architecture, entry: Entry) -> np.ndarray[Any, Any]:
    tensor = checkpoint.weights.get(entry.source).float()
    if architecture.interleaved and ("attn_q." in entry.name or "attn_k." in entry.name):
        tensor = interleave(tensor, head_dim(checkpoint.config))
    data = gguf.quants.quantize(tensor.contiguous().numpy(), entry.kind)
    if entry.kind == GGMLQuantizationType.F16 and not np.isfinite(data).all():
        raise ConfigError(f"{entry.source!r} has values beyond the range of f16: use --outtype bf16 or f32.")
    return np.ascontiguousarray(data)


def _add_metadata(writer: GGUFWriter, checkpoint: Checkpoint, outtype: str) -> None:
    config, width = checkpoint.config, head_dim(checkpoint.config)
    writer.add_name(Path(checkpoint.source).stem)
    writer.add_file_type(OUTTYPES[outtype][1])
    writer.add_quantization_version(QUANTIZATION_VERSION)
    writer.add_block_count(len(checkpoint.layers))
    writer.add_context_length(_context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_head_count(_by_layer(checkpoint, "num_attention_heads"))
    writer.add_head_count_kv(_by_layer(checkpoint, "num_key_value_heads"))
    writer.add_feed_forward_length(_by_layer(checkpoint, "intermediate_size"))


def _by_layer(checkpoint: Checkpoint, key: str) -> int | list[int]:
    """One number where layers are of one size: only ``deci`` reads lists throughout."""
    values = [layer_sizes(checkpoint, index)[key] for index in range(len(checkpoint.layers))]
    return values[0] if is_uniform(checkpoint) else values


def _context_length(config: Any) -> int:
    """These architectures have no sliding window, which makes no difference to contexts that fit into it."""
    window = getattr(config, "sliding_window", None)
    return min(config.max_position_embeddings, window or config.max_position_embeddings)


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
