"""The seven zero-shot tasks of the SlimGPT paper, their rows on disk, and their mean.

https://arxiv.org/abs/2412.18110, section 4: BoolQ, PIQA, HellaSwag, WinoGrande, ARC-easy, ARC-challenge and OpenBookQA
by lm-evaluation-harness. Which accuracy counts is said in docs/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from slimgpt.errors import ConfigError

NAME = "slimgpt"
METRICS = {
    "boolq": "acc",
    "piqa": "acc_norm",
    "hellaswag": "acc_norm",
    "winogrande": "acc",
    "arc_easy": "acc_norm",
    "arc_challenge": "acc_norm",
    "openbookqa": "acc_norm",
}
"""The metric of each task that goes into the mean: normalised by the answer's length where the harness has that."""

SPLIT = "validation"


def definition(task: str, folder: Path) -> dict[str, Any]:
    """The harness's configuration of one of the seven tasks over rows in ``folder``.

    Raises:
        ConfigError: the folder, or the file of the task's rows, is not there.
    """
    config: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("tasks").joinpath(f"{task}.yaml").read_text())
    files = config["dataset_kwargs"]["data_files"]
    if not folder.is_dir():
        raise ConfigError(f"--task-data {str(folder)!r} is not a folder: name the one with {files[SPLIT]}.")
    rows = folder / files[SPLIT]
    if not rows.is_file() or not rows.stat().st_size:
        raise ConfigError(
            f"--task-data {str(folder)!r} has no rows of {task}: put {rows.name} there, or leave --task-data out to "
            "take them from the hub."
        )
    files[SPLIT] = str(rows)
    return config


def mean(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The suite's own entry: the mean of the seven accuracies, and its standard error.

    The tasks share no rows, so the variances add.
    """
    values = [results[task][f"{metric},none"] for task, metric in METRICS.items()]
    errors = [results[task][f"{metric}_stderr,none"] for task, metric in METRICS.items()]
    return {
        "alias": NAME,
        "acc,none": sum(values) / len(values),
        "acc_stderr,none": math.sqrt(sum(error**2 for error in errors)) / len(errors),
    }
