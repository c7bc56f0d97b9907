"""GGUF for llama.cpp, written tensor by tensor."""

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

from slimgpt.arch.family import head_dim
from slimgpt.config import ExportConfig
from slimgpt.errors import ConfigError, ModelError
from slimgpt.exports.gguf_architecture import Architecture, choose, interleave, rope_factors
from slimgpt.exports.gguf_gone import not_in_file, sizes_in_file, zeros_in_file
from slimgpt.exports.gguf_tokenizer import add_tokenizer
from slimgpt.exports.layout import is_uniform
from slimgpt.exports.plan import Plan
from slimgpt.model.checkpoint import Checkpoint

QUANTIZATION_VERSION = 2

OUTTYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
}


@dataclass(frozen=True)
class Entry:
    """A tensor of the file; ``source`` is its name in the checkpoint, None where it is zeros."""

    source: str | None
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
    architecture = choose(checkpoint)
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


def _entries(checkpoint: Checkpoint, architecture: Architecture, outtype: str) -> Iterator[Entry]:
    """Every parameter once: a tied head is left out, and llama.cpp takes the embedding in its place."""
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(arch, len(checkpoint.layers))
    stored = {name: tuple(parameter.shape) for name, parameter in checkpoint.skeleton.named_parameters()}
    unread = not_in_file(checkpoint)
    for source, shape in (*stored.items(), *zeros_in_file(checkpoint)):
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"{source!r} has no place in llama.cpp's {architecture.name}.")
        if not name.startswith(unread):
            yield Entry(source if source in stored else None, name, shape, tensor_type(shape, outtype))


def tensor_type(shape: tuple[int, ...], outtype: str) -> GGMLQuantizationType:
    """Matrices in the asked type, or f16 where rows do not divide into its blocks; vectors stay f32."""
    kind = OUTTYPES[outtype][0]
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    return kind if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def _write(checkpoint: Checkpoint, architecture: Architecture, entries: list[Entry], outtype: str, path: Path) -> None:
    writer = GGUFWriter(path, architecture.name)
    try:
        _add_metadata(writer, checkpoint, outtype)
        add_tokenizer(writer, checkpoint.tokenizer(), checkpoint.config.vocab_size)
        _write_tensors(writer, checkpoint, architecture, entries)
    finally:
        writer.close()


def _write_tensors(
    writer: GGUFWriter, checkpoint: Checkpoint, architecture: Architecture, entries: list[Entry]
) -> None:
    """First the table of all tensors, then one after the other: only one is in memory."""
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


def _data(checkpoint: Checkpoint, architecture: Architecture, entry: Entry) -> np.ndarray[Any, Any]:
    tensor = torch.zeros(entry.shape) if entry.source is None else checkpoint.weights.get(entry.source).float()
    if architecture.interleaved and ("attn_q." in entry.name or "attn_k." in entry.name):
        tensor = interleave(tensor, head_dim(checkpoint.config))
    with np.errstate(over="ignore"):  # found below
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
    values = [sizes_in_file(checkpoint, index)[key] for index in range(len(checkpoint.layers))]
    return values[0] if is_uniform(checkpoint) else values


def _context_length(config: Any) -> int:
    """These architectures have no sliding window, which makes no difference to contexts that fit into it."""
    window = getattr(config, "sliding_window", None)
    return min(config.max_position_embeddings, window or config.max_position_embeddings)
