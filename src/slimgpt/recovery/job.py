"""Turns options into a checked job: whatever can refuse a run refuses it here, before any work."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from slimgpt.config import RecoverConfig
from slimgpt.config.paths import path_of
from slimgpt.errors import ConfigError, ModelError
from slimgpt.machine import devices
from slimgpt.machine.json_files import read_object
from slimgpt.machine.processes import Processes
from slimgpt.machine.versions import versions
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.checks import check_context
from slimgpt.model.schema import RECORD
from slimgpt.output import measurements
from slimgpt.output.journal import Journal, take_up
from slimgpt.output.place import Place
from slimgpt.recovery import compiling, lora, rows, targets
from slimgpt.recovery.memory import CURE, Training
from slimgpt.recovery.packing import Row
from slimgpt.recovery.teacher import Teacher, open_teacher
from slimgpt.streaming import memory
from slimgpt.streaming.sizes import model_size

TOKENS_PER_PASS = {"cpu": 1024, "mps": 2048, "cuda": 4096}
"""Tokens in one forward and backward pass when the user leaves it to us; their logits, over the whole vocabulary and
in float32, are there three times."""

NOT_IN_FINGERPRINT = frozenset(
    {"model", "out", "data", "text_field", "bos", "mix", "teacher", "teacher_cache", "teacher_streamed", "recipe"}
    | {"device", "resume", "force", "keep_adapter"}
)
"""Options that may change between a run and its continuation, or that the fingerprint holds in another form."""

PLAIN_ATTENTION = 512
"""Tokens up to which a CPU trains faster by plain attention than by torch's fused one, whose backward pass is slow:
measured, 9 % of a layer's time at 256 tokens and 7 % at 512; longer rows take too much memory for their scores."""

MEASUREMENTS = 10  # of held-out perplexity, in a run whose options do not say


@dataclass(frozen=True)
class Job:
    """A run after all its checks.

    Attributes:
        config: the options.
        checkpoint: the model to recover, opened.
        tokenizer: the model's.
        teacher: the dense model; None learns the data's own tokens.
        train: rows to learn.
        held_out: rows to measure with.
        device: where training runs.
        bfloat16: matrix products are in bfloat16.
        micro_batch_size: rows in one forward and backward pass of a process.
        accumulation: passes in one optimiser step.
        num_steps: optimiser steps.
        eval_every: optimiser steps between measurements.
        place: the folder to make, and the one beside it to work in.
        journal: says which run the working folder belongs to.
        processes: the processes that share the work.
        needs: memory it will take.
        finished: the record of a run that is to be resumed, but had come to its end.
    """

    config: RecoverConfig
    checkpoint: Checkpoint
    tokenizer: Any
    teacher: Teacher | None
    train: list[Row]
    held_out: list[Row]
    device: torch.device
    bfloat16: bool
    micro_batch_size: int
    accumulation: int
    num_steps: int
    eval_every: int
    place: Place
    journal: Journal
    processes: Processes
    needs: memory.Needs
    finished: dict[str, Any] | None

    @property
    def reads_ahead(self) -> bool:
        """The teacher reads all rows before training; where hidden states are wanted, it runs beside it instead."""
        return self.teacher is not None and not self.config.hidden_weight

    @property
    def targets_folder(self) -> Path:
        """Where the teacher's predictions are kept."""
        kept = self.config.teacher_cache
        return path_of(kept, "--teacher-cache") if kept else self.place.partial / "teacher"


def prepare(config: RecoverConfig) -> Job:
    """Check the options, open the models, read the data, and open the working folder.

    Raises:
        SlimGPTError: the first thing that is wrong.
    """
    config.check()
    device = devices.pick_device(config.device)
    processes = Processes.join(device)
    if config.compile:
        compiling.check(device)
    checkpoint = _model(config)
    tokenizer = checkpoint.tokenizer()
    teacher = open_teacher(config.teacher, checkpoint, tokenizer) if config.teacher else None
    _check_hidden(config, teacher)
    place = Place(config.out)
    train, held_out = rows.build(config, tokenizer, packing=config.packing and checkpoint.family.packs)
    _check_tokens(checkpoint, train + held_out)
    num_steps = config.max_steps or math.ceil(len(train) * config.epochs / config.batch_size)
    if config.warmup >= num_steps:
        raise ConfigError(
            f"--warmup {config.warmup} is all of the {num_steps} optimiser steps that {len(train)} rows make: lower "
            "it, or --batch-size, or train for more --epochs."
        )
    micro, accumulation = _passes(config, device, processes.size)
    num_bytes = _bytes(config, checkpoint, train)
    if processes.leads:
        place.check(checkpoint.path, num_bytes, config.force, config.resume)
    bfloat16 = _in_bfloat16(config, device)
    threads = torch.get_num_threads() if device.type == "cpu" else None
    numbers = {
        "passes": [micro, accumulation, processes.size],
        "bfloat16": bfloat16,
        "device": device.type,
        "threads": threads,
    }
    fingerprint = _fingerprint(config, checkpoint, teacher, [train, held_out]) | numbers
    journal = Journal(place.partial, fingerprint)
    needs = _needs(config, checkpoint, teacher, device, bfloat16, micro)
    memory.check(needs, device, CURE, place.partial, processes.size)
    finished = processes.from_leader(_begin(config, place, num_bytes, journal) if processes.leads else None)
    return Job(
        config=config,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        teacher=teacher,
        train=train,
        held_out=held_out,
        device=device,
        bfloat16=bfloat16,
        micro_batch_size=micro,
        accumulation=accumulation,
        num_steps=num_steps,
        eval_every=config.eval_every or max(1, num_steps // MEASUREMENTS),
        place=place,
        journal=journal,
        processes=processes,
        needs=needs,
        finished=finished,
    )


def foresee(config: RecoverConfig, checkpoint: Checkpoint, tokenizer: Any) -> tuple[memory.Needs, torch.device]:
    """What training a model of the checkpoint's size will need, on which device, while there is only the dense one.

    Raises:
        SlimGPTError: the teacher, or an option, will not do.
    """
    device = devices.pick_device(config.device)
    teacher = open_teacher(config.teacher, checkpoint, tokenizer) if config.teacher else None
    micro, _ = _passes(config, device, processes=1)
    return _needs(config, checkpoint, teacher, device, _in_bfloat16(config, device), micro), device


def _in_bfloat16(config: RecoverConfig, device: torch.device) -> bool:
    return config.precision == "bfloat16" or (config.precision == "auto" and devices.has_bfloat16(device))


def _model(config: RecoverConfig) -> Checkpoint:
    """The model to train.

    Raises:
        ModelError: it cannot be trained, or its record is damaged.
    """
    checkpoint = open_checkpoint(config.model)
    if checkpoint.path.is_file():
        raise ModelError(
            f"model {config.model!r} is a GGUF file, whose weights transformers does not train: make a folder of it "
            f"first, by slimgpt prune {config.model} FOLDER --ratio 0 --layout uniform."
        )
    measurements.check_record(checkpoint.path)
    check_context(checkpoint.config, config.seqlen)
    if not config.full:
        lora.adapted_paths(checkpoint)
    return checkpoint


def _check_hidden(config: RecoverConfig, teacher: Teacher | None) -> None:
    if config.hidden_weight and teacher is not None and teacher.reading is not None:
        raise ConfigError(
            f"--hidden-weight {config.hidden_weight} compares hidden states token by token, and {config.model} was "
            f"trimmed: it reads a text by other tokens than {teacher.source}. Drop it."
        )


def _passes(config: RecoverConfig, device: torch.device, processes: int) -> tuple[int, int]:
    """Rows in one pass of a process, and passes in an optimiser step: together the batch, exactly."""
    share, rest = divmod(config.batch_size, processes)
    if rest or share == 0:
        raise ConfigError(f"--batch-size {config.batch_size} is not a multiple of the {processes} processes.")
    if config.micro_batch_size and share % config.micro_batch_size:
        raise ConfigError(
            f"--micro-batch-size {config.micro_batch_size} does not divide the {share} rows of a process: choose one "
            "that does."
        )
    limit = config.micro_batch_size or max(1, TOKENS_PER_PASS[device.type] // config.seqlen)
    micro = max(size for size in range(1, min(limit, share) + 1) if share % size == 0)
    return micro, share // micro


def plain_attention(seqlen: int, device: torch.device) -> bool:
    """Attention forms all its scores."""
    return device.type == "cpu" and seqlen <= PLAIN_ATTENTION


def _needs(
    config: RecoverConfig,
    checkpoint: Checkpoint,
    teacher: Teacher | None,
    device: torch.device,
    bfloat16: bool,
    micro: int,
) -> memory.Needs:
    dense = teacher.checkpoint if teacher is not None else None
    return Training(
        config=config,
        checkpoint=checkpoint,
        size=model_size(checkpoint, device),
        teacher=model_size(dense, device) if dense is not None else None,
        device=device,
        computed=torch.bfloat16 if bfloat16 else torch.float32,
        pass_tokens=micro * config.seqlen,
        plain_attention=plain_attention(config.seqlen, device),
    ).needs()


def _bytes(config: RecoverConfig, checkpoint: Checkpoint, train: list[Row]) -> int:
    """What a run writes: the output, two checkpoints of what learns with its optimiser, the teacher's predictions."""
    output_bytes = checkpoint.num_params * checkpoint.dtype.itemsize
    checkpoints = 2 * 12 * checkpoint.num_params if config.full else 0
    stored = config.teacher and not (config.teacher_cache or config.hidden_weight)
    kept = targets.estimated_bytes(train, config.top_k) if stored else 0
    return output_bytes + checkpoints + kept


def _check_tokens(checkpoint: Checkpoint, found: list[Row]) -> None:
    largest = max(max(row.ids) for row in found)
    if largest >= checkpoint.vocabulary:
        raise ModelError(
            f"{checkpoint.path}: the tokenizer makes token {largest}, but the model has embeddings for "
            f"{checkpoint.vocabulary} tokens only: the tokenizer belongs to another model."
        )


def _begin(config: RecoverConfig, place: Place, num_bytes: int, journal: Journal) -> dict[str, Any] | None:
    """Open the working folder; or drop it, and return the record, where the run to resume has its output in place."""
    with place.full_disk_named(num_bytes):
        return take_up(
            journal, place, config.force, config.resume, lambda: finished_record(place.out, journal.fingerprint)
        )


def finished_record(out: Path, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    """The record of ``out`` if the very same run has made it, and died before it could say so."""
    try:
        record = read_object(out / RECORD)
        return record if record["recovery"][-1]["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _fingerprint(
    config: RecoverConfig, checkpoint: Checkpoint, teacher: Teacher | None, data: list[list[Row]]
) -> dict[str, Any]:
    """What has to be equal for a run to continue another one and to end with the same weights."""
    options = {key: value for key, value in asdict(config).items() if key not in NOT_IN_FINGERPRINT}
    return {
        **options,
        "model": checkpoint.fingerprint(),
        "teacher": teacher.speaker if teacher else None,
        "data": hashlib.sha256(json.dumps(data).encode()).hexdigest(),
        **versions(),
        "peft": lora.version(),
    }
