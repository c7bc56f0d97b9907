"""``lm_eval`` on a pruned checkpoint, as people run it: no special case, and no slimgpt in the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import task_rows
import tiny_llama
import yaml

from slimgpt import prune
from slimgpt.evaluation import suite
from slimgpt.model.loading import load_model

TASKS = ("arc_easy", "winogrande")
NUM_ROWS = 10


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    dense = tiny_llama.save_model(tmp_path / "dense", max_position_embeddings=256)
    return prune(tiny_llama.prune_config(dense, tmp_path / "pruned", ratio=0.3)).path


@pytest.mark.nightly
def test_lm_eval_answers_as_a_plain_loop_does(pruned: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    tasks, hidden = tmp_path / "tasks", tmp_path / "hidden"
    tasks.mkdir(), hidden.mkdir()
    (hidden / "slimgpt.py").write_text("raise ImportError('slimgpt is not installed here')\n")
    rows = dict(task_rows.all_tasks(tmp_path, TASKS, NUM_ROWS))
    for task in TASKS:
        (tasks / f"{task}.yaml").write_text(yaml.safe_dump(suite.definition(task, tmp_path)))
    command = [
        Path(sys.executable).with_name("lm_eval"),
        "--model",
        "hf",
        "--device",
        "cpu",
        "--tasks",
        ",".join(TASKS),
    ]
    arguments = f"pretrained={pruned},trust_remote_code=True,dtype=float32"
    places = ["--include_path", tasks, "--output_path", tmp_path / "out"]
    done = subprocess.run(
        [*map(str, command), "--model_args", arguments, *map(str, places)],
        env={**os.environ, "PYTHONPATH": str(hidden), "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = next((tmp_path / "out").rglob("results_*.json"))
    results = json.loads(written.read_text())["results"]
    model, tokenizer = load_model(str(pruned), "cpu")
    for task in TASKS:
        expected = task_rows.accuracies(model, tokenizer, task, rows[task])
        assert results[task]["acc,none"] == pytest.approx(expected["acc"])
