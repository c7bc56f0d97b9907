"""Outputs of commands that have nothing to resume: made beside OUT in one go, and then given their name.

Whatever goes wrong, nothing of them stays. Commands that take long enough to be resumed keep a journal instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimgpt import output
from slimgpt.checkpoint import Checkpoint
from slimgpt.errors import OutputError
from slimgpt.hold import Hold
from slimgpt.modeling_slimgpt import PREFIX


def check(out: Path, model: Path, num_bytes: int, force: bool) -> None:
    """Refuse, before any work, an output that could not be written or would overwrite something.

    Raises:
        OutputError: OUT exists, is the model or inside it, its parent is not a folder, or the disk is too full.
    """
    output.recover(out)
    output.check_place(out, model, force)
    if out.is_file():
        raise OutputError(f"OUT {out} is a file: name a folder.")
    output.check_ours(out)
    partial = output.partial_folder(out)
    if partial.exists() and not force:
        raise OutputError(f"an unfinished run is in {partial}: finish it, or drop it with --force.")
    output.check_room(out, num_bytes)


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside OUT to work in, gone afterwards whatever happens."""
    folder = output.partial_folder(out)
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that died, and checked to be dispensable
    folder.mkdir(parents=True)
    with Hold(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def add_the_rest(folder: Path, checkpoint: Checkpoint, config: Any, tokenizer: Any) -> None:
    """What a checkpoint has beside its weights: configuration, modelling file, generation settings, tokenizer."""
    config.save_pretrained(folder)
    if is_per_layer(config):
        output.add_modelling_file(folder)
    output.generation_config(checkpoint).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def is_per_layer(config: Any) -> bool:
    """Layers have their own sizes, so that our modelling file goes with the weights."""
    return str(config.model_type).startswith(PREFIX)


def provenance(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What a record says of where the model came from: its name, its family, and its own record if it has one."""
    whole: dict[str, Any] = {"source": checkpoint.source, "family": checkpoint.family.model_type}
    stored = output.record_of(checkpoint.path)
    return whole if stored is None else {**whole, "before": stored}
