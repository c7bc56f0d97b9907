"""What a model costs to run: size, peak memory, FLOPs per token, and speed with its spread.

Every model has a process of its own, so that its peak is its own, and they take turns in every repeat, so that a
machine that is slow for a while is slow for all of them: ratios are of paired repeats. ``served`` measures a server's
answers in the same way.

Comes in: names of models. Goes out: seconds, bytes and FLOPs of each, beside the first.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import torch

from slimgpt.benchmarking import worker
from slimgpt.benchmarking.asked import fitting
from slimgpt.benchmarking.served import measured_by_server
from slimgpt.benchmarking.spread import ratios, spread
from slimgpt.config import BenchConfig
from slimgpt.config.paths import path_of
from slimgpt.errors import ConfigError, ModelError, OutputError
from slimgpt.machine import devices
from slimgpt.machine.timing import Load, Repeat
from slimgpt.machine.versions import versions
from slimgpt.model.quantisation import Scheme, require_library
from slimgpt.model.schema import RECORD
from slimgpt.model.weights import weight_files
from slimgpt.output import measurements
from slimgpt.output.single_file import single_file

KIND, SCHEMA = "bench", 1
Answer = TypeVar("Answer")


def bench(config: BenchConfig, progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Measure all models, and write what is found where the options say.

    Args:
        config: the options.
        progress: called after every load and every repeat.

    Returns:
        plain data, as in ``bench.json``; of what a server serves, by number of clients.

    Raises:
        ConfigError: an option outside its rule, or more tokens than a model's context or the memory holds.
        ModelError: a model cannot be read, or its process died.
        OutputError: the file exists, or ``record`` is asked and no model is a run's folder.
    """
    config.check()
    folders = _run_folders(config.models) if config.record else []
    with single_file(config.json) as file:
        found = (_measured if config.server is None else measured_by_server)(config, progress)
        file.write_json(found)
    for folder in folders:
        measurements.keep(folder, KIND, found)
    return found


def _measured(config: BenchConfig, progress: Callable[[], None]) -> dict[str, Any]:
    device = devices.pick_device(config.device)
    if config.quantise is not None:
        require_library(config.quantise)
    bytes_on_disk = [_bytes_on_disk(fitting(model, config).path) for model in config.models]
    with contextlib.ExitStack() as stack:
        lanes = [stack.enter_context(_Lane(model)) for model in config.models]
        work = Load(config.batch_size, config.prompt_tokens, config.new_tokens, config.seed)
        schemes = [None, *[config.quantise] * (len(lanes) - 1)]
        facts = [
            _loaded(lane, str(device), work, scheme, progress) for lane, scheme in zip(lanes, schemes, strict=True)
        ]
        repeats = _in_turns(lanes, config, progress)
        measured = [
            {
                "model": lane.model,
                **fact,
                "bytes_on_disk": size,
                "peak_bytes": lane.ask(worker.peak_bytes),
                "flops_per_token": lane.ask(worker.flops_per_token),
            }
            for lane, fact, size in zip(lanes, facts, bytes_on_disk, strict=True)
        ]
    speeds = [_speeds(own, config) for own in repeats]
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": devices.device_name(device),
        "settings": _settings(config),
        "models": [{**facts, **_summary(own, speeds[0])} for facts, own in zip(measured, speeds, strict=True)],
    }


def _run_folders(models: tuple[str, ...]) -> list[Path]:
    """Those of the models that carry a record of their making."""
    paths = {model: path_of(model, "MODEL") for model in models}
    folders = [measurements.require_run(model) for model, path in paths.items() if (path / RECORD).is_file()]
    if not folders:
        raise OutputError(f"--record: none of {', '.join(models)} is a folder with {RECORD}. Use --json FILE.")
    return folders


def _bytes_on_disk(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in weight_files(path))


class _Lane:
    """A process for one model, as a context manager.

    Args:
        model: what errors call it.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=worker.start,
            initargs=(torch.get_num_threads(),),
        )

    def __enter__(self) -> _Lane:
        return self

    def __exit__(self, *args: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def ask(self, question: Callable[..., Answer], *args: object) -> Answer:
        """What the process answers."""
        try:
            return self._pool.submit(question, *args).result()
        except BrokenProcessPool as error:
            raise ModelError(
                f"the process that measures {self.model} died, most likely for want of memory: all models are loaded "
                "at the same time. Measure them one by one, or give a smaller --batch-size or --prompt-tokens."
            ) from error
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{self.model} does not fit into the device's memory with the others: measure the models one by one, "
                "or give a smaller --batch-size or --prompt-tokens."
            ) from error


def _loaded(
    lane: _Lane, device: str, work: Load, quantise: Scheme | None, progress: Callable[[], None]
) -> dict[str, Any]:
    facts = lane.ask(worker.load, lane.model, device, work, quantise)
    progress()
    return facts


def _in_turns(lanes: Sequence[_Lane], config: BenchConfig, progress: Callable[[], None]) -> list[list[Repeat]]:
    """Repeats of each model. Who comes first changes from round to round, or a drift would favour the last."""
    repeats: list[list[Repeat]] = [[] for _ in lanes]
    for number in range(config.warmup + config.repeats):
        turns = list(zip(lanes, repeats, strict=True))
        for lane, own in turns if number % 2 == 0 else reversed(turns):
            own.append(lane.ask(worker.repeat))
            progress()
    return [own[config.warmup :] for own in repeats]


def _speeds(repeats: Sequence[Repeat], config: BenchConfig) -> dict[str, list[float]]:
    """What each repeat says of each quantity."""
    read, made = config.batch_size * config.prompt_tokens, config.batch_size * (config.new_tokens - 1)
    return {
        "prefill_tokens_per_s": [read / repeat.prefill_s for repeat in repeats],
        "decode_tokens_per_s": [made / repeat.decode_s for repeat in repeats],
        "time_to_first_token_ms": [1000 * repeat.first_token_s for repeat in repeats],
    }


def _summary(speeds: dict[str, list[float]], first: dict[str, list[float]]) -> dict[str, Any]:
    """Spreads of the quantities and of their ratios to the first model's."""
    to_first = {_stem(name): ratios(values, first[name]) for name, values in speeds.items()}
    return {**{name: spread(values) for name, values in speeds.items()}, "ratios_to_first": to_first}


def _stem(name: str) -> str:
    return name.removesuffix("_tokens_per_s").removesuffix("_ms")


def _settings(config: BenchConfig) -> dict[str, int]:
    """What the figures depend on."""
    names = ("prompt_tokens", "new_tokens", "batch_size", "repeats", "warmup", "seed")
    return {**{name: getattr(config, name) for name in names}, "threads": torch.get_num_threads()}
