"""recover(): the steps of a run and nothing else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import transformers

from slimgpt.config import RecoverConfig
from slimgpt.errors import NumericalError
from slimgpt.machine import devices, host
from slimgpt.machine.clock import Clock
from slimgpt.machine.versions import versions
from slimgpt.model.beginning import bos_of
from slimgpt.model.loading import load_as
from slimgpt.output.written import Written
from slimgpt.recovery import checkpoints, compiling, extrapolation, folding, lora, movement, save, targets, teacher
from slimgpt.recovery.checkpoints import Checkpoint
from slimgpt.recovery.extrapolation import Reached
from slimgpt.recovery.job import Job, plain_attention, prepare
from slimgpt.recovery.observer import RecoverObserver
from slimgpt.recovery.packing import num_learned
from slimgpt.recovery.rows import longest
from slimgpt.recovery.trainer import RecoveryTrainer
from slimgpt.recovery.witness import of_trained
from slimgpt.recovery.zeros import hold_zeros
from slimgpt.streaming import other_way


class RecoverResult(Written):
    """The recovered model."""


def recover(config: RecoverConfig, observer: RecoverObserver | None = None) -> RecoverResult:
    """Fine-tune a model for a short time and write the best checkpoint, merged, atomically.

    Raises:
        SlimGPTError: something the user can mend; raised before any work wherever that is possible.
    """
    clock = Clock()
    with clock.timed("prepare"):
        lora.require_peft()
        job = prepare(config)
    if job.device.type == "cpu":
        host.keep_memory()
    watching = observer if observer is not None and job.processes.leads else RecoverObserver()
    with closing(job.place):
        whole = job.finished or _carry_out(job, watching, clock)
    job.processes.leave()
    return RecoverResult(job.place.out, whole)


def _carry_out(job: Job, observer: RecoverObserver, clock: Clock) -> dict[str, Any]:
    """Let the teacher speak, train, and write the output; its record (empty for those who only helped)."""
    _note_other_way(job, observer)
    observer.planned(job)
    with job.place.full_disk_named(0), _quiet_transformers():
        store = None
        if job.reads_ahead:
            with clock.timed("teacher"):
                store = _taught(job, observer)
        observer.training()
        with clock.timed("train"):
            before = job.processes.from_leader(checkpoints.last(job) if job.processes.leads else None)
            trainer = _trainer(job, store, observer, before)
            trainer.go_on(before)
        reached = Reached(1.0, trainer.kept_perplexity)
        if job.config.extrapolate:
            with clock.timed("extrapolate"):
                reached = _further(job, trainer)
        cpu = torch.tensor([clock.cpu_seconds], device=job.device)
        job.processes.sum_([cpu])
        if not job.processes.leads:
            return {}
        entry = _entry(job, trainer, reached, clock, cpu.item())
        if job.config.keep == "best":
            _require_better(job, entry)
        observer.writing()
        return save.write(job, trainer.accelerator.unwrap_model(trainer.model), entry, of_trained(job, trainer))


def _note_other_way(job: Job, observer: RecoverObserver) -> None:
    """Say where the model would read the longest rows much better with a BOS token, or without."""
    if job.processes.leads:
        ids_BT = longest(job.train, other_way.WINDOWS)
        dtype = devices.compute_dtype(job.checkpoint.dtype, job.device)
        other_way.note_other_way(
            job.checkpoint, job.tokenizer, ids_BT, job.config.bos, job.device, dtype, observer.said
        )


def _taught(job: Job, observer: RecoverObserver) -> targets.TargetStore:
    """The teacher's predictions for all training rows; it runs for those that are not on disk yet."""
    assert job.teacher is not None
    config, dtype = job.config, _compute_dtype(job)
    speaker = f"{job.teacher.speaker} {dtype} {job.device.type}"
    store = targets.open_store(job.targets_folder, speaker, job.train, config.top_k, config.temperature)
    targets.fill(store, job.train, lambda: _loaded_teacher(job), _predict(job), job.processes, observer.taught)
    return store


def _predict(job: Job) -> targets.Predict:
    """As the student's tokens are the teacher's own, or some of them."""
    assert job.teacher is not None
    settings: Any = {"num_kept": job.config.top_k, "temperature": job.config.temperature}
    settings["batch_size"] = job.micro_batch_size
    if job.teacher.reading is None:
        return partial(targets.predict, **settings)
    return partial(folding.predict, reading=job.teacher.reading, **settings)


def _trainer(
    job: Job, store: targets.TargetStore | None, observer: RecoverObserver, before: Checkpoint | None
) -> RecoveryTrainer:
    hidden_teacher = _loaded_teacher(job) if job.config.hidden_weight else None
    if hidden_teacher is not None and job.config.compile and not job.config.teacher_streamed:
        compiling.compile_layers(hidden_teacher.get_submodule(job.checkpoint.family.layers))
    model = _learner(job)
    trainer = RecoveryTrainer(model, job, store, hidden_teacher, observer, measure_first=before is None)
    if job.config.movement:
        layers = model.get_submodule(job.checkpoint.family.layers)
        trainer.add_callback(movement.Movement(layers, job.config.movement, job.config.warmup))
    trainer.add_callback(checkpoints.Sealing(job))  # last, when all others have written
    return trainer


def _learner(job: Job) -> Any:
    """The model that learns, with what learns of it in float32."""
    transformers.set_seed(job.config.seed)  # of the adapters
    model = load_as(job.checkpoint.path, torch.float32 if job.config.full else _compute_dtype(job))
    if job.config.compile:
        compiling.compile_layers(model.get_submodule(job.checkpoint.family.layers))
    if plain_attention(job.config.seqlen, job.device):
        model.set_attn_implementation("eager")
    if job.config.full:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.requires_grad_(job.config.train_embeddings)
        if job.config.keep_zeros:
            hold_zeros(model)
    else:
        model = lora.with_adapters(model, job.checkpoint, job.config)
    if job.config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _further(job: Job, trainer: RecoveryTrainer) -> Reached:
    """Take the kept checkpoint on along the way that training has gone."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    line = extrapolation.Line(model, before=load_as(job.checkpoint.path, torch.float32))
    return extrapolation.go_on(line, trainer.held_out_perplexity, trainer.kept_perplexity)


def _compute_dtype(job: Job) -> torch.dtype:
    """Of weights that stay as they are."""
    return torch.bfloat16 if job.bfloat16 else torch.float32


def _loaded_teacher(job: Job) -> Any:
    assert job.teacher is not None
    return teacher.load(job.teacher, _compute_dtype(job), job.device, job.config.teacher_streamed)


def _entry(job: Job, trainer: RecoveryTrainer, reached: Reached, clock: Clock, cpu_seconds: float) -> dict[str, Any]:
    """What ``slimgpt.json`` says of a recovery."""
    history = _history(trainer.state.log_history)
    measured = {row["step"]: row["eval_perplexity"] for row in history if "eval_perplexity" in row}
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "method": "distillation" if job.teacher else "fine-tuning",
        "weights": "all" if job.config.full else "lora",
        "teacher": job.teacher.source if job.teacher else None,
        "options": asdict(job.config),
        "bos": bos_of(job.tokenizer, job.config.bos),
        "fingerprint": job.journal.fingerprint,
        "versions": versions(),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "rows": len(job.train),
        "tokens": sum(len(row.ids) for row in job.train),
        "learned_tokens": sum(map(num_learned, job.train)),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step if job.config.keep == "best" else trainer.state.global_step,
        "extrapolated_to": reached.share,
        "held_out": {
            "rows": len(job.held_out),
            "learned_tokens": sum(map(num_learned, job.held_out)),
            "perplexity_before": measured[0],
            "perplexity_after": reached.perplexity,
        },
        "seconds": {stage: round(seconds, 3) for stage, seconds in clock.seconds.items()},
        "cpu_seconds": round(cpu_seconds, 3),  # of all processes and cores: the cost on a machine that others share
        "planned_host_bytes": job.needs.host,
        "peak_host_bytes": host.peak_host_bytes(),
        "peak_device_bytes": devices.peak_device_bytes(job.device),
        "device": devices.device_name(job.device),
        "history": history,
    }


def _history(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """One row a step: training loss, held-out perplexity, or both."""
    rows: dict[int, dict[str, float]] = {}
    for found in log:
        row = rows.setdefault(int(found["step"]), {"step": int(found["step"])})
        row.update({name: found[name] for name in ("loss", "eval_perplexity") if name in found})
    return [rows[step] for step in sorted(rows) if len(rows[step]) > 1]


def _require_better(job: Job, entry: dict[str, Any]) -> None:
    """A run that makes held-out text less likely is no recovery, and is not written."""
    before, after = entry["held_out"]["perplexity_before"], entry["held_out"]["perplexity_after"]
    if not after < before:
        job.journal.discard()  # the same run would end the same way, and what cures it makes it another run
        raise NumericalError(
            f"held-out perplexity was {before:.4g} before training and {after:.4g} at the best of its checkpoints, so "
            "nothing was written. Lower --learning-rate, or train for longer."
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Trainer's and accelerate's remarks are for their own users."""
    before, offloading = transformers.logging.get_verbosity(), logging.getLogger("accelerate.big_modeling")
    transformers.logging.set_verbosity_error()
    offloading.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what peft still asks of transformers
            yield
    finally:
        transformers.logging.set_verbosity(before)
        offloading.setLevel(logging.NOTSET)
