"""The folder that users get: weights, configuration, tokenizer, modelling file, record and card, all or nothing.

A run works in ``OUT.partial``. The finished folder is put together inside it and then renamed to ``OUT``. An older OUT
that is to be replaced waits in ``OUT.partial/replaced`` until then, so that at every moment one of the two is there.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import slimgpt.modeling_slimgpt as modeling
from slimgpt.arch.family import head_dim
from slimgpt.checkpoint import Checkpoint
from slimgpt.errors import OutputError
from slimgpt.hold import Hold
from slimgpt.journal import sync, write_json, write_tensors
from slimgpt.planning import Plan
from slimgpt.schema import RECORD
from slimgpt.weights import INDEX

if TYPE_CHECKING:
    from slimgpt.job import Job

ONE_FILE_BYTES = 1 << 30  # up to this the weights are merged into one file, which has to pass through memory
SPARE_BYTES = 64 << 20  # tokenizer, record and room to breathe
FINISHED, REPLACED = "finished", "replaced"  # in the working folder: the output to be, and the older one it replaces
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than the system allows (see ulimit -f)",
}


def partial_folder(out: Path) -> Path:
    """Where a run works until it is done."""
    return out.parent / f"{out.name}.partial"


def check_output(out: Path, model: Path, bytes_after: int, force: bool, resume: bool) -> None:
    """Refuse, before any work, an output that could not be written or would overwrite something.

    Raises:
        OutputError: OUT exists, is the model or inside it, its parent is not a folder, or the disk is too full.
    """
    check_place(out, model, force or resume)
    if out.is_file():
        raise OutputError(f"OUT {out} is a file: name a folder.")
    check_ours(out)
    partial = partial_folder(out)
    if partial.exists() and not (resume or force):
        raise OutputError(f"an unfinished run is in {partial}: continue it with --resume, or drop it with --force.")
    check_room(out, bytes_after)


def check_ours(out: Path) -> None:
    """Refuse to replace a folder with anything in it that slimgpt did not make.

    Raises:
        OutputError: it has no record.
    """
    if out.is_dir() and not (out / RECORD).is_file() and any(out.iterdir()):
        raise OutputError(
            f"OUT {out} has no {RECORD}, so slimgpt did not make it and --force does not replace it: "
            "choose another folder, or remove it yourself."
        )


def check_place(out: Path, model: Path, force: bool) -> None:
    """Refuse an output that would overwrite something or lie in the model.

    Raises:
        OutputError: OUT exists and ``force`` is off, or it is, holds, or lies in the model.
    """
    if out.resolve() == model.resolve() or model.resolve() in out.resolve().parents:
        raise OutputError(f"OUT {out} is the model's own folder or inside it: choose another folder.")
    if out.resolve() in model.resolve().parents:
        raise OutputError(f"OUT {out} contains the model {model}: choose another folder.")
    if out.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise OutputError(f"OUT {out} is or contains the working folder: choose another folder.")
    if out.exists() and not force:
        raise OutputError(f"OUT {out} exists: choose another folder, or replace it with --force.")


def check_room(out: Path, bytes_after: int) -> None:
    """Refuse an output that its disk cannot hold.

    Raises:
        OutputError: the parent of OUT is not a folder that may be written to, or its disk is too full.
    """
    parent = _standing_parent(out)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"OUT {out} cannot be made: {parent} is not a folder that may be written to.")
    needed, free = _bytes_to_write(out, bytes_after), shutil.disk_usage(parent).free
    if needed > free:
        raise OutputError(
            f"OUT {out} needs {needed / 2**20:,.0f} MiB, but {parent} has {free / 2**20:,.0f} MiB free: "
            "make room, or choose another disk."
        )


def _standing_parent(out: Path) -> Path:
    """The nearest folder above OUT that is there: it tells the disk."""
    return next((folder for folder in out.absolute().parents if folder.exists()), Path("/"))


def _bytes_to_write(out: Path, bytes_after: int) -> int:
    """What a run still has to write, beside the layers that it has written."""
    partial = partial_folder(out)
    written = sum(file.stat().st_size for file in partial.glob("*.safetensors")) if partial.is_dir() else 0
    merging = bytes_after if bytes_after <= ONE_FILE_BYTES else 0
    return max(bytes_after - written, 0) + merging + SPARE_BYTES


@contextmanager
def full_disk_named(out: Path, bytes_after: int) -> Iterator[None]:
    """Inside, a disk that takes no more is an OutputError with the cure."""
    try:
        yield
    except Exception as error:  # libraries in Rust raise errors of their own kinds
        reason = FULL.get(_system_error(error) or 0)
        if reason is None:
            raise
        shutil.rmtree(partial_folder(out) / FINISHED, ignore_errors=True)
        parent = _standing_parent(out)
        needed, free = _bytes_to_write(out, bytes_after), shutil.disk_usage(parent).free
        raise OutputError(
            f"{parent}: {reason}. The run has about {needed / 2**20:,.0f} MiB still to write there, and "
            f"{free / 2**20:,.0f} MiB are free. Finished layers are kept: make room, and give the same command with "
            "--resume."
        ) from error


def _system_error(error: Exception) -> int | None:
    """The number of the system's error: of Python's kind, or in the text of a library's."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def recover(out: Path) -> None:
    """Set right what a run that died while it assembled or published has left in its working folder.

    Raises:
        OutputError: that run has not died.
    """
    with Hold(partial := partial_folder(out)):
        if (partial / REPLACED).exists() and not out.exists():
            os.replace(partial / REPLACED, out)
        shutil.rmtree(partial / FINISHED, ignore_errors=True)


def finished_record(out: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of ``out`` if the very same run has made it, and died before it could say so."""
    record = record_of(out)
    return record if record is not None and record.get("fingerprint") == fingerprint else None


def record_of(folder: Path) -> dict[str, Any] | None:
    """The record of a folder that slimgpt made; None where there is none that can be read."""
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def pruned_config(checkpoint: Checkpoint, plan: Plan, layout: str, dtype: torch.dtype) -> Any:
    """Configuration of the smaller model, in the per-layer or a stock class.

    Raises:
        ConfigError: no stock class can hold the uniform sizes.
    """
    resized = [
        checkpoint.family.resized(checkpoint.layer_config(i), plan.kept(i)) for i in range(len(checkpoint.layers))
    ]
    if layout == "uniform":
        return stock_config(checkpoint, resized[0], dtype)
    classes = modeling.slim_classes(checkpoint.family.model_type)
    per_layer = {str(index): sizes for index, sizes in enumerate(resized)}
    config: Any = classes.config(**_global_settings(checkpoint, dtype), per_layer_config=per_layer)
    module = Path(modeling.__file__).stem
    config.auto_map = {
        "AutoModel": f"{module}.{classes.body.__name__}",
        "AutoModelForCausalLM": f"{module}.{classes.model.__name__}",
    }
    config.architectures = [classes.model.__name__]
    return config


def stock_config(checkpoint: Checkpoint, sizes: Mapping[str, int], dtype: torch.dtype) -> Any:
    """Configuration of a stock class in which every layer has the given ``sizes`` (upstream's keys).

    Raises:
        ConfigError: no stock class can hold them.
    """
    config = checkpoint.family.stock_config({**_global_settings(checkpoint, dtype), **sizes})
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # transformers' own annotations would have it a pair
    config.architectures = [model_class.__name__]
    return config


def _global_settings(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
    """A configuration's keys without those that say which class it is or how layers differ."""
    settings = dict(checkpoint.config.to_dict())
    for key in ("model_type", "architectures", "auto_map", "per_layer_config", "transformers_version"):
        settings.pop(key, None)
    settings["dtype"] = str(dtype).removeprefix("torch.")
    settings["head_dim"] = head_dim(checkpoint.config)  # stock code would derive it from the number of heads
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def assemble(job: Job) -> Path:
    """Put weights, configuration, modelling file and tokenizer together in the working folder; its path."""
    folder = partial_folder(job.out) / FINISHED
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that died while assembling
    folder.mkdir(parents=True)
    weights = job.checkpoint.weights
    rest = {name: weights.get(name).to(job.stored_dtype).contiguous() for name in job.checkpoint.other_names()}
    shards = [job.journal.shard(index) for index in range(len(job.checkpoint.layers))]
    write_weights(folder, rest, shards, job.plan.bytes_after)
    job.output_config.save_pretrained(folder)
    if job.config.layout == "per-layer":
        add_modelling_file(folder)
    generation_config(job.checkpoint).save_pretrained(folder)
    job.tokenizer.save_pretrained(folder)
    return folder


def write_weights(folder: Path, rest: Mapping[str, Tensor], shards: Sequence[Path], total_bytes: int) -> None:
    """One file where it is small, else the layers' shards as they are, and one more for what is no layer."""
    if total_bytes <= ONE_FILE_BYTES:
        layers = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
        write_tensors(folder / "model.safetensors", {**rest, **layers})
        return
    total = len(shards) + 1
    names = [f"model-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1)]
    write_tensors(folder / names[-1], rest)
    for shard, name in zip(shards, names, strict=False):
        _link(shard, folder / name)
    weight_map = {tensor: name for name in names for tensor in _tensor_names(folder / name)}
    write_json(folder / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def _link(shard: Path, target: Path) -> None:
    """A second name for a shard: the journal stays whole until the output has its name."""
    try:
        os.link(shard, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(shard, target)


def _tensor_names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def add_modelling_file(folder: Path) -> None:
    """What plain transformers needs to load layers of different sizes."""
    assert modeling.__file__ is not None
    shutil.copyfile(modeling.__file__, folder / Path(modeling.__file__).name)


def generation_config(checkpoint: Checkpoint) -> GenerationConfig:
    """The model's own generation config, or the one its configuration implies."""
    stored = checkpoint.path / "generation_config.json"
    if stored.is_file():
        return GenerationConfig.from_pretrained(checkpoint.path)
    return GenerationConfig.from_model_config(checkpoint.config)


def publish(finished: Path, out: Path) -> None:
    """Give the finished folder (or file) its name, replacing an older OUT only now, and drop the working folder.

    No system renames one folder over another. Between the two renames the older OUT is ``OUT.partial/replaced``; a run
    that dies there is set right by :func:`recover`.
    """
    partial = partial_folder(out)
    inside = sorted(finished.iterdir()) if finished.is_dir() else []
    for path in (*inside, finished):  # not all of them were written by us
        sync(path)
    if out.exists():
        os.replace(out, partial / REPLACED)
    os.replace(finished, out)
    sync(out.parent)
    shutil.rmtree(partial)
