"""The folder that users get: the layout that went in, with other weights, and a record of how they came about."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimgpt.machine import atomic
from slimgpt.machine.json_files import read_object
from slimgpt.model.loading import load_as
from slimgpt.model.schema import RECORD, SCHEMA
from slimgpt.output import record_file
from slimgpt.output.assembly import add_modelling_file, is_per_layer
from slimgpt.output.companions import copy_companions
from slimgpt.proof import Witness, prove
from slimgpt.recovery import lora
from slimgpt.recovery.job import Job

ADAPTER = "adapter"
LARGEST_FILE = "5GB"
CONFIGURATION = ("config.json", "generation_config.json")
KEPT = "What was trained is kept: the same command with --resume goes on from it."


def write(job: Job, model: Any, entry: Mapping[str, Any], witness: Witness) -> dict[str, Any]:
    """Publish the trained model as OUT; its record, with ``entry`` added to it.

    Args:
        job: the run.
        model: as trained: with adapters, which are merged, or whole.
        entry: what is to be known of this recovery.
        witness: what the model says.

    Raises:
        ProofError: what was written says something else.
    """
    folder = job.place.finished
    if not job.config.full:
        model.save_pretrained(job.place.partial / ADAPTER)
        model = lora.merged(load_as(job.checkpoint.path, job.checkpoint.dtype), job.place.partial / ADAPTER)
    model.to(job.checkpoint.dtype).save_pretrained(folder, max_shard_size=LARGEST_FILE)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes it readable by its owner alone
    job.tokenizer.save_pretrained(folder)
    _copy_the_rest(job.checkpoint.path, folder, job.checkpoint.config)
    if job.config.keep_adapter:
        shutil.move(job.place.partial / ADAPTER, folder / ADAPTER)
    del model  # there will be another one
    proof = prove(folder, witness, job.tokenizer, job.needs.more, KEPT)
    return record_file.publish(job.place, {**_record(job, entry), "proof": proof})


def _copy_the_rest(source: Path, folder: Path, config: Any) -> None:
    """Configuration, tokenizer and whatever else travels with a model, byte for byte, and our own modelling file."""
    for name in CONFIGURATION:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    _name_the_class(folder / "config.json", config)
    copy_companions(source, folder, replace=True)
    if is_per_layer(config):
        add_modelling_file(folder, config)


def _name_the_class(path: Path, config: Any) -> None:
    """A configuration that names no class, or another than the one it is opened as, is given that."""
    settings = read_object(path)
    if settings.get("architectures") != config.architectures:
        atomic.write_json(path, {**settings, "architectures": config.architectures})


def _record(job: Job, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own record, if slimgpt made it, with this recovery at its end."""
    before: dict[str, Any] = {"schema": SCHEMA, "source": job.checkpoint.source}
    stored = job.checkpoint.path / RECORD
    if stored.is_file():
        before = read_object(stored)
    before.setdefault("family", job.checkpoint.family.model_type)
    return {**before, "recovery": [*before.get("recovery", []), dict(entry)]}
