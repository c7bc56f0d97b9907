"""The dense model that a pruned one learns from: whole or a layer at a time, as it is or quantised."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slimgpt.errors import ConfigError, ModelError
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.config_file import CONFIG, read_config, read_settings
from slimgpt.model.loading import load_as
from slimgpt.model.source import resolve
from slimgpt.model.tokenizer import load_tokenizer
from slimgpt.model.weights import SafetensorsWeights
from slimgpt.output.record_file import record_of
from slimgpt.recovery.reading import Reading
from slimgpt.vocabulary.lineage import old_ids


@dataclass(frozen=True)
class Teacher:
    """A dense model, checked and not loaded.

    Attributes:
        source: what the user named.
        path: local folder or GGUF file.
        config: its configuration.
        identity: tells its predictions from those of other models.
        checkpoint: the opened model; None where it is quantised, which only transformers can read.
        reading: how it reads the rows of a student with fewer tokens; None where the tokens are the same.
    """

    source: str
    path: Path
    config: Any
    identity: str
    checkpoint: Checkpoint | None
    reading: Reading | None = None

    @property
    def speaker(self) -> str:
        """Tells its predictions for one student from all others."""
        return self.identity if self.reading is None else f"{self.identity} {self.reading.identity}"


def open_teacher(name: str, student: Checkpoint, tokenizer: Any) -> Teacher:
    """Open a teacher and see that its predictions mean what the student's mean.

    Raises:
        ModelError: it cannot be read, or its tokenizer or vocabulary is not the student's, nor what the student's was
            trimmed from.
    """
    path = resolve(name)
    teacher = _quantised(name, path) if _is_quantised(path) else _plain(name)
    theirs = load_tokenizer(path)
    if (traced := old_ids(record_of(student.path), tokenizer, theirs)) is not None:
        return replace(teacher, reading=Reading(tokenizer, theirs, traced))
    cure = "the teacher has to be the model that was pruned, or trimmed by slimgpt trim, or one with its"
    if teacher.config.vocab_size != student.config.vocab_size:
        raise ModelError(
            f"--teacher {name} predicts {teacher.config.vocab_size} tokens, but {student.source} predicts "
            f"{student.config.vocab_size}: {cure} vocabulary."
        )
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise ModelError(f"--teacher {name} has another tokenizer than {student.source}: {cure} tokenizer.")
    return teacher


def load(teacher: Teacher, dtype: torch.dtype, device: torch.device, streamed: bool) -> Any:
    """The teacher in evaluation mode; ``streamed`` leaves its layers on disk until they are due.

    A quantised folder goes where transformers puts it, as its method may not run everywhere.

    Raises:
        ConfigError: a GGUF file or a quantised model is to be streamed.
    """
    if streamed and (teacher.checkpoint is None or teacher.path.is_file()):
        raise ConfigError(
            f"--teacher-streamed needs a folder of plain safetensors, and {teacher.source} is quantised or a GGUF "
            "file: leave it out, or name the original model."
        )
    if teacher.path.is_file():
        return load_as(teacher.path, dtype).to(device).eval()
    placement: dict[str, Any] = {"": device}
    if streamed:
        assert teacher.checkpoint is not None
        placement = _layers_on_disk(teacher.checkpoint, device)
    return load_as(teacher.path, dtype, device_map=placement).eval()


def _plain(name: str) -> Teacher:
    checkpoint = open_checkpoint(name)
    return Teacher(name, checkpoint.path, checkpoint.config, checkpoint.fingerprint(), checkpoint)


def _is_quantised(path: Path) -> bool:
    return path.is_dir() and bool(read_settings(path).get("quantization_config"))


def _quantised(name: str, path: Path) -> Teacher:
    config = read_config(path)
    weights = SafetensorsWeights(path)
    digest = hashlib.sha256((path / CONFIG).read_bytes())
    for tensor in sorted(weights.names()):
        digest.update(f"{tensor} {weights.shape(tensor)}".encode())
        digest.update(weights.get(tensor).flatten()[:1024].float().numpy().tobytes())
    return Teacher(name, path, config, digest.hexdigest(), None)


def _layers_on_disk(checkpoint: Checkpoint, device: torch.device) -> dict[str, str]:
    """accelerate's device map: decoder layers on disk, everything else on the device."""
    inside = f"{checkpoint.family.layers}."
    tensors = [*checkpoint.other_names(), *(name for name, _ in checkpoint.skeleton.named_buffers())]
    modules = {name.rpartition(".")[0] for name in tensors if not name.startswith(inside)}
    modules |= {name for name, module in checkpoint.skeleton.named_modules() if _is_head(checkpoint, module)}
    layers = {f"{inside}{index}": "disk" for index in range(len(checkpoint.layers))}
    return {**dict.fromkeys(sorted(modules), str(device)), **layers}


def _is_head(checkpoint: Checkpoint, module: Any) -> bool:
    """The head has no name of its own among the parameters where it is the embedding."""
    skeleton: Any = checkpoint.skeleton
    return module is skeleton.get_output_embeddings()
