"""Files that other tools load, made from a model that slimgpt can open: one format a file of this package.

Comes in: a model's folder. Goes out: one file or folder that another tool loads, checked by loading it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from slimgpt.config import ExportConfig
from slimgpt.errors import ModelError
from slimgpt.exports.gguf import plan_gguf
from slimgpt.exports.onnx import plan_onnx
from slimgpt.exports.padded import plan_padded
from slimgpt.exports.plan import Plan
from slimgpt.exports.uniform_check import describe
from slimgpt.exports.verify import require_tool, verify
from slimgpt.machine.atomic import write_json
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.schema import RECORD, SCHEMA
from slimgpt.output.place import Place
from slimgpt.output.standing import GGUF, MODEL
from slimgpt.proof import prove

__all__ = ["ExportResult", "export"]

PLANNERS: Mapping[str, Callable[[Checkpoint, ExportConfig], Plan]] = {
    "gguf": plan_gguf,
    "padded": plan_padded,
    "onnx": plan_onnx,
}

COMPUTED = "rotary_emb.inv_freq"  # old checkpoints store what is now computed


@dataclass(frozen=True)
class ExportResult:
    """What an export did.

    Attributes:
        path: the file or folder; None where nothing was written (uniform-check).
        notes: what people should know of it, a sentence each.
    """

    path: Path | None
    notes: tuple[str, ...]


def export(config: ExportConfig) -> ExportResult:
    """Write a model, dense or pruned, for another tool; OUT appears only when it is whole and, if asked, verified.

    Raises:
        ConfigError: the format does not suit the model's layout; the message says which do.
        ModelError: the model cannot be read, or holds what the export would lose.
        OutputError: OUT exists or cannot be written, or does not compute what the model does (a ProofError for what
            transformers opens).
    """
    config.check()
    checkpoint = open_checkpoint(config.model)
    if config.format == "uniform-check":
        return ExportResult(None, describe(checkpoint, config, PLANNERS))
    assert config.out is not None  # check() saw to it
    _check_nothing_lost(checkpoint)
    require_tool(config)
    plan = PLANNERS[config.format](checkpoint, config)
    place = Place(config.out, MODEL if plan.folder else GGUF)
    place.check(checkpoint.path, plan.num_bytes, config.force)
    return ExportResult(Path(config.out).expanduser(), (*plan.notes, *_write(place, plan, checkpoint, config)))


def _write(place: Place, plan: Plan, checkpoint: Checkpoint, config: ExportConfig) -> tuple[str, ...]:
    """Write beside OUT, verify, then give it its name."""
    with place.work(config.force):
        plan.write(place.finished)
        made = {"schema": SCHEMA, "source": config.model, "export": asdict(config)}
        if plan.witness is not None:
            made["proof"] = prove(place.finished, plan.witness(), checkpoint.tokenizer(), None)
        if plan.folder:
            write_json(place.finished / RECORD, made)
        said = verify(checkpoint, place.finished, config) if config.verify and plan.witness is None else ()
        place.publish()
    return said


def _check_nothing_lost(checkpoint: Checkpoint) -> None:
    """Refuse stored tensors that the model class has no use for: whatever they meant, the export would not have it."""
    known = set(checkpoint.skeleton.state_dict())
    strangers = sorted(name for name in checkpoint.weights.names() if name not in known and not name.endswith(COMPUTED))
    if strangers:
        raise ModelError(
            f"{checkpoint.source} holds {len(strangers)} tensors that {checkpoint.config.model_type} does not have, "
            f"first {strangers[0]!r}: an export would lose them. Remove them from the checkpoint if they mean nothing."
        )
