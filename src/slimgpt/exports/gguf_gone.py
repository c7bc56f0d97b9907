"""What a file for llama.cpp has in the place of blocks that are gone.

``deci`` runs a layer of no heads without attention, and without the norm before it. Units of zeros, which add nothing,
stand where it could not: it asks the first layer how wide heads are, and a layer without FFN loses its attention too.
"""

from __future__ import annotations

from collections.abc import Iterator

from slimgpt.exports.gguf_architecture import MIN_FFN_CHANNELS
from slimgpt.model.checkpoint import Checkpoint, skipped
from slimgpt.sites import ATTENTION, FFN, Kept


def sizes_in_file(checkpoint: Checkpoint, index: int) -> dict[str, int]:
    """A layer's head counts and FFN width in upstream's names: 0 heads where there is no attention."""
    here = {site.part: Kept(site.num_units) for site in checkpoint.sites(index)}
    kept = {ATTENTION: Kept(0), **here, **_stand_ins(checkpoint, index)}
    return checkpoint.family.resized(checkpoint.layer_config(index), kept)


def zeros_in_file(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of the weights of zeros."""
    hidden = checkpoint.config.hidden_size
    for index in range(len(checkpoint.layers)):
        prefix, zeros = checkpoint.layer_prefix(index), _stand_ins(checkpoint, index)
        for site in checkpoint.family.sites(checkpoint.layer_config(index)):
            if site.part in zeros:
                units = zeros[site.part].units
                yield f"{prefix}{site.consumer}.weight", (hidden, units * site.unit_width)
                for segment in site.producers:
                    yield f"{prefix}{segment.path}.weight", (units * segment.rows_per_unit, hidden)


def not_in_file(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What llama.cpp's names of tensors begin with that a layer without heads must not have."""
    layers = range(len(checkpoint.layers))
    return tuple(f"blk.{i}.attn_" for i in layers if not sizes_in_file(checkpoint, i)["num_attention_heads"])


def _stand_ins(checkpoint: Checkpoint, index: int) -> dict[str, Kept]:
    """Units of zeros by part."""
    gone = skipped(checkpoint.layer_config(index))
    least = {FFN: Kept(MIN_FFN_CHANNELS), **({ATTENTION: Kept(1)} if index == 0 else {})}
    return {part: units for part, units in least.items() if part in gone}
