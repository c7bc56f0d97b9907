"""The folder of a model with fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from slimgpt.machine.atomic import write_json
from slimgpt.machine.json_files import read_object
from slimgpt.machine.tensor_files import write_tensors
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.generation_settings import FILE
from slimgpt.model.layer_loading import read_layer
from slimgpt.output import assembly
from slimgpt.output.companions import VOCABULARIES
from slimgpt.vocabulary.renumber import new_ids, renumbered
from slimgpt.vocabulary.rows import cut_tables, row_params, smaller_config

NAMES_ONLY = "special_tokens_map.json"
"""Names tokens by their texts, and may stay."""


def assemble(
    finished: Path, work: Path, checkpoint: Checkpoint, tables: Sequence[str], kept: Sequence[int], tokenizer: Any
) -> tuple[int, list[str]]:
    """Put it together in ``finished``, the layers' shards in ``work`` first: its parameters, and the model's files that
    were left out because they name tokens by their ids of before.
    """
    cut, dtype = cut_tables(checkpoint, tables, kept), checkpoint.dtype
    num_params = checkpoint.num_params - (checkpoint.vocabulary - len(kept)) * row_params(checkpoint, tables)
    config = smaller_config(checkpoint, len(kept), new_ids(kept))
    shards = _write_layers(checkpoint, work)
    assembly.assemble(finished, checkpoint, shards, num_params * dtype.itemsize, dtype, config, tokenizer, cut)
    write_json(finished / FILE, renumbered(read_object(finished / FILE), new_ids(kept)))
    return num_params, _leave_out_vocabularies(finished, tokenizer)


def _write_layers(checkpoint: Checkpoint, work: Path) -> list[Path]:
    """The decoder layers as they are, a shard each."""
    shards = [work / f"layer-{index:05d}.safetensors" for index in range(len(checkpoint.layers))]
    for index, shard in enumerate(shards):
        prefix = checkpoint.layer_prefix(index)
        state = read_layer(checkpoint, index, checkpoint.dtype)
        write_tensors(shard, {prefix + name: tensor.contiguous() for name, tensor in state.items()})
    return shards


def _leave_out_vocabularies(finished: Path, tokenizer: Any) -> list[str]:
    """Take away vocabularies that came along from the model and that the new tokenizer has not written."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        written = {path.name for path in Path(folder).iterdir()}
    patterns = (path for pattern in VOCABULARIES for path in finished.glob(pattern))
    stale = sorted(path for path in patterns if path.name not in {*written, NAMES_ONLY})
    for path in stale:
        path.unlink()
    return [path.name for path in stale]
