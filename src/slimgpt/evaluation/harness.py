"""Tasks by lm-evaluation-harness: found before any work starts, run on a model that is already loaded."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimgpt.config.paths import path_of
from slimgpt.errors import ConfigError
from slimgpt.evaluation import suite
from slimgpt.model.reading import border

FEWSHOT_SEED = 1234  # the harness's own default
ROWS_PER_BATCH = {"cpu": 4, "mps": 4, "cuda": 16}
NUM_NEAREST = 3  # names offered in place of one that nobody knows

Loaded = dict[str, dict[str, Any]]
"""Tasks and groups by name, in the form that the harness's ``evaluate`` takes."""


def load(names: Sequence[str], task_dir: str | None = None, task_data: str | None = None) -> Loaded:
    """Tasks, groups and tags by name, with their rows.

    A name is looked for in ``task_dir``, then among the suite's tasks if their rows are in ``task_data``, then in the
    harness.

    Raises:
        ConfigError: the harness is not installed, nobody knows a name, or a task's rows cannot be had.
    """
    _require()
    loaded: Loaded = {"tasks": {}, "groups": {}, "group_map": {}}
    with _quiet():
        own = _own_tasks(task_dir) if task_dir is not None else None
        for name in dict.fromkeys(names):
            if own is not None and name in own.all_subtasks:
                found = _from(own, name)
            elif task_data is not None and name in suite.METRICS:
                found = {"tasks": {name: _local(name, path_of(task_data, "--task-data"))}}
            else:
                everything = _manager(task_dir)
                _require_known(name, everything)
                found = _from(everything, name)
            for kind, items in found.items():
                loaded[kind].update(items)
    return loaded


def run(
    model: Any,
    tokenizer: Any,
    loaded: Loaded,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 0,
) -> dict[str, Any]:
    """Answer the tasks' rows; results in the harness's own schema.

    Log-probabilities are taken in float32. Special tokens are those that the tokenizer adds by itself.

    Raises:
        ConfigError: a task would run code that the model writes.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(f"task {name!r} runs code that the model writes: use lm_eval itself, in a sandbox.")
        if num_fewshot is not None or task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    with _quiet():
        harness = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size or ROWS_PER_BATCH[model.device.type],
            softmax_dtype="float32",
        )
        results: dict[str, Any] = evaluate(lm=harness, task_dict=loaded, limit=limit, log_samples=False)
    return results


def _require() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--tasks and --suite need lm-evaluation-harness, which is not installed: pip install 'slimgpt[eval]'."
        ) from error


def _own_tasks(task_dir: str) -> Any:
    """The tasks of a folder alone: reading the harness's thousands takes seconds."""
    from lm_eval.tasks import TaskManager

    folder = path_of(task_dir, "--task-dir")
    if not folder.is_dir():
        raise ConfigError(f"--task-dir {task_dir!r} is not a folder: name one with task files (.yaml).")
    with border(f"--task-dir {task_dir!r} holds a file that is no task", "Mend it, or move it away.", ConfigError):
        return TaskManager(include_path=str(folder), include_defaults=False)


@functools.cache
def _manager(task_dir: str | None) -> Any:
    """All that the harness knows, and the groups of a folder, which may hold tasks of both."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(path_of(task_dir, "--task-dir")) if task_dir is not None else None)


def _require_known(name: str, manager: Any) -> None:
    if name in manager.all_tasks:
        return
    near = difflib.get_close_matches(name, manager.all_tasks, n=NUM_NEAREST, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "lm_eval ls tasks lists them."
    raise ConfigError(f"--tasks: nobody knows a task {name!r}; {hint}")


def _from(manager: Any, name: str) -> Loaded:
    return _having_rows(name, lambda: manager.load([name]), "Give --task-data DIR if it is one of the suite's.")


def _local(name: str, folder: Path) -> Any:
    from lm_eval.api.task import ConfigurableTask

    config = suite.definition(name, folder)
    return _having_rows(name, lambda: ConfigurableTask(config=config), f"Mend its file in {folder}.")


def _having_rows(name: str, make: Callable[[], Any], cure: str) -> Any:
    """What ``make`` makes: the harness reads a task's rows, and tries the first, when it makes the task."""
    with border(f"the rows of task {name!r} cannot be read", cure, ConfigError):
        return make()


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness warns of what we do on purpose, such as handing it a model."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
