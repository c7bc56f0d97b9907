"""Turns options into checked steps: what would refuse a later stage refuses the run before any work."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slimgpt.calibration import fingerprint
from slimgpt.config import PruneConfig, RecoverConfig
from slimgpt.config.step import Step
from slimgpt.config.target import count, size
from slimgpt.efforts.table import TRAININGS, Stages, num_prunings
from slimgpt.errors import ConfigError, DamagedError
from slimgpt.machine import devices
from slimgpt.machine.seals import unseal
from slimgpt.machine.versions import versions
from slimgpt.model.beginning import first_tokens
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.checks import check_context
from slimgpt.output import record_file
from slimgpt.output.journal import Journal, take_up
from slimgpt.output.place import JOURNAL, Place
from slimgpt.pruning.observer import Observer
from slimgpt.pruning.prepare import NOT_IN_FINGERPRINT, calibration_windows
from slimgpt.recovery import foresee, lora
from slimgpt.recovery.rows import build
from slimgpt.streaming import memory

FOLDER, TEXT = "stages", "calibration.jsonl"
TRAINS = "trains"
TRAINING_DEVICES = ("auto", "cpu", "cuda", "mps")
INSTEAD = "--effort medium prunes without training"


@dataclass(frozen=True)
class Job:
    """A run of several stages after all its checks.

    Attributes:
        config: the options.
        steps: its commands.
        text: the calibration windows as lines of JSON.
        text_file: where stages find them.
        place: the folder to make, and the one beside it to work in.
        journal: says which run the working folder belongs to.
        finished: the record of a run that is to be resumed, but had come to its end.
    """

    config: PruneConfig
    steps: Sequence[Step]
    text: str
    text_file: Path
    place: Place
    journal: Journal
    finished: dict[str, Any] | None

    @property
    def folder(self) -> Path:
        """Where the stages work."""
        return self.text_file.parent


def prepare(config: PruneConfig, observer: Observer) -> Job:
    """Check the options and those of all stages, read the calibration text, and open the working folder.

    Raises:
        SlimGPTError: the first thing that is wrong.
    """
    config.check()
    _check_machine(config)
    model, place = open_checkpoint(config.model, config.families), Place(config.out)
    check_context(model.config, config.seqlen)
    removed = removed_share(config, model)
    place.check(model.path, None if config.resume else _num_bytes(model, removed), config.force, config.resume)
    device, tokenizer = devices.pick_device(config.device), model.tokenizer()
    windows_BT = calibration_windows(config, model, tokenizer, device, observer.preparing, observer.said)
    text = as_lines(windows_BT, tokenizer, len(first_tokens(tokenizer, config.bos)))
    folder = place.partial / FOLDER
    stages = Stages(config, removed, folder, folder / TEXT, {})
    if stages.why_in_one is not None:
        observer.said(f"--effort high prunes in one step here: {stages.why_in_one}.")
    trains = _training(stages, model, text, tokenizer, place)
    steps = tuple(replace(stages, training=TRAININGS[trains]).steps())
    for step in steps:
        config_of(step).check()
    journal = Journal(place.partial, _fingerprint(config, model, windows_BT, trains, device))
    finished = take_up(
        journal,
        place,
        config.force,
        config.resume,
        lambda: record_file.finished_record(place.out, journal.fingerprint),
    )
    return Job(config, steps, text, stages.text, place, journal, finished)


def config_of(step: Step, **more: Any) -> PruneConfig | RecoverConfig:
    """A step's options as its command takes them."""
    kind: type[Any] = PruneConfig if step.command == "prune" else RecoverConfig
    config: PruneConfig | RecoverConfig = kind(*step.positional, **step.options, **more)
    return config


def removed_share(config: PruneConfig, model: Checkpoint) -> float | None:
    """Of all parameters, as far as the options say; None for a target in memory or time."""
    if config.target_params is not None:
        return max(0.0, 1 - count(config.target_params) / model.num_params)
    if config.target_size is not None:
        itemsize = (model.dtype if config.dtype == "auto" else getattr(torch, config.dtype)).itemsize
        return max(0.0, 1 - size(config.target_size) / (model.num_params * itemsize))
    return config.asked_ratio


def as_lines(windows_BT: torch.Tensor, tokenizer: Any, num_first: int) -> str:
    """Windows as lines of JSON, without the tokens that stand before each: training puts them there itself."""
    texts = tokenizer.batch_decode(windows_BT[:, num_first:])
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def _check_machine(config: PruneConfig) -> None:
    lora.require_peft()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "--effort high runs in one process: start it without torchrun, or give its stages as commands of their "
            "own (it prints them)."
        )
    if config.device not in TRAINING_DEVICES:
        raise ConfigError(
            f"--effort high trains too, and that takes --device {', '.join(TRAINING_DEVICES)}, not {config.device}: "
            "choose one of several GPUs by CUDA_VISIBLE_DEVICES."
        )


def _num_bytes(model: Checkpoint, removed: float | None) -> int:
    """Of all stages' folders at most: they stay until the last of them is done."""
    return 2 * num_prunings(removed or 0.0) * model.num_params * model.dtype.itemsize


def _training(stages: Stages, model: Checkpoint, text: str, tokenizer: Any, place: Place) -> str:
    """Which training there is memory for; a run that goes on keeps to what it began with.

    Raises:
        ConfigError: none, or the text is too short for any.
    """
    begun = _begun_with(place) if stages.config.resume else None
    refusal = ""
    for name in TRAININGS if begun is None else [begun]:
        last = list(replace(stages, training=TRAININGS[name]).steps())[-1]
        training = replace(config_of(last), model=stages.config.model)
        assert isinstance(training, RecoverConfig)
        _check_text(training, model, text, tokenizer)
        try:
            needs, device = foresee(training, model, tokenizer)
            memory.check(needs, device, INSTEAD, place.partial)
            return name
        except ConfigError as error:
            refusal = str(error)
    raise ConfigError(f"--effort high trains, for which there is no room: {refusal}")


def _begun_with(place: Place) -> str | None:
    try:
        header = unseal(place.partial / JOURNAL, JOURNAL) or {}
    except DamagedError:
        return None  # the journal says it better
    begun = header.get(TRAINS)
    return begun if begun in TRAININGS else None


def _check_text(training: RecoverConfig, model: Checkpoint, text: str, tokenizer: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, TEXT).write_text(text, encoding="utf-8")
        own = replace(training, data=str(Path(folder, TEXT)))
        train, _ = build(own, tokenizer, packing=own.packing and model.family.packs)
    num_steps = math.ceil(len(train) * own.epochs / own.batch_size)
    if num_steps <= own.warmup:
        raise ConfigError(
            f"--effort high trains on the calibration text, and that is {len(train)} rows of {own.seqlen} tokens: "
            f"{num_steps} optimiser steps, where the first {own.warmup} only warm up. Raise --samples or --seqlen; "
            f"{INSTEAD}."
        )


def _fingerprint(
    config: PruneConfig, model: Checkpoint, windows_BT: torch.Tensor, trains: str, device: torch.device
) -> Mapping[str, Any]:
    """What has to be equal for a run to continue another one; stages say more of themselves."""
    options = {key: value for key, value in asdict(config).items() if key not in NOT_IN_FINGERPRINT}
    return {
        **options,
        "effort": config.effort,
        TRAINS: trains,
        "model": model.fingerprint(),
        "calibration": fingerprint(windows_BT),
        "device": device.type,
        **versions(),
    }
