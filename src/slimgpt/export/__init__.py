"""Files that other tools load, made from a model that slimgpt can open: one format a file of this package.

Comes in: a model's folder. Goes out: one file or folder that another tool loads, checked by loading it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from slimgpt.config import ExportConfig
from slimgpt.config.paths import path_of
from slimgpt.errors import ModelError, OutputError
from slimgpt.export.gguf import plan_gguf
from slimgpt.export.onnx import plan_onnx
from slimgpt.export.padded import plan_padded
from slimgpt.export.plan import Plan
from slimgpt.export.uniform_check import describe
from slimgpt.export.verify import verify
from slimgpt.machine.atomic import write_json
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.schema import RECORD, SCHEMA
from slimgpt.output.place import FINISHED, check_ours, check_place, check_room, partial_folder, publish, recover

__all__ = ["Exported", "export"]

PLANNERS: Mapping[str, Callable[[Checkpoint, ExportConfig], Plan]] = {
    "gguf": plan_gguf,
    "padded": plan_padded,
    "onnx": plan_onnx,
}

COMPUTED = "rotary_emb.inv_freq"  # old checkpoints store what is now computed


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        path: the file or folder; None where nothing was written (uniform-check).
        notes: what people should know of it, a sentence each.
    """

    path: Path | None
    notes: tuple[str, ...]


def export(config: ExportConfig) -> Exported:
    """Write a model, dense or pruned, for another tool; OUT appears only when it is whole and, if asked, verified.

    Raises:
        ConfigError: the format does not suit the model's layout; the message says which do.
        ModelError: the model cannot be read, or holds what the export would lose.
        OutputError: OUT exists or cannot be written, or does not compute what the model does.
    """
    config.check()
    checkpoint = open_checkpoint(config.model)
    if config.format == "uniform-check":
        return Exported(None, describe(checkpoint, config, PLANNERS))
    assert config.out is not None  # check() saw to it
    _check_nothing_lost(checkpoint)
    plan = PLANNERS[config.format](checkpoint, config)
    out = path_of(config.out, "OUT")
    _check_output(out, checkpoint.path, plan, config.force)
    return Exported(out, (*plan.notes, *_write(out, plan, checkpoint, config)))


def _write(out: Path, plan: Plan, checkpoint: Checkpoint, config: ExportConfig) -> tuple[str, ...]:
    """Write beside OUT, verify, then give it its name: whatever goes wrong, nothing of it stays."""
    work = partial_folder(out)
    shutil.rmtree(work, ignore_errors=True)  # left by a run that died, and checked to be dispensable
    work.mkdir(parents=True)
    try:
        finished = work / (FINISHED if plan.folder else f"{FINISHED}.gguf")
        plan.write(finished)
        if plan.folder:
            write_json(finished / RECORD, {"schema": SCHEMA, "source": config.model, "export": asdict(config)})
        said = verify(checkpoint, finished, config) if config.verify else ()
        publish(finished, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return said


def _check_output(out: Path, model: Path, plan: Plan, force: bool) -> None:
    recover(out)
    check_place(out, model, force)
    if out.exists() and out.is_dir() != plan.folder:
        raise OutputError(f"OUT {out} is a {'folder' if out.is_dir() else 'file'}, but this format makes the other.")
    check_ours(out)
    if partial_folder(out).exists() and not force:
        raise OutputError(f"an unfinished run is in {partial_folder(out)}: finish it, or drop it with --force.")
    check_room(out, plan.num_bytes)


def _check_nothing_lost(checkpoint: Checkpoint) -> None:
    """Refuse stored tensors that the model class has no use for: whatever they meant, the export would not have it."""
    known = set(checkpoint.skeleton.state_dict())
    strangers = sorted(name for name in checkpoint.weights.names() if name not in known and not name.endswith(COMPUTED))
    if strangers:
        raise ModelError(
            f"{checkpoint.source} holds {len(strangers)} tensors that {checkpoint.config.model_type} does not have, "
            f"first {strangers[0]!r}: an export would lose them. Remove them from the checkpoint if they mean nothing."
        )
