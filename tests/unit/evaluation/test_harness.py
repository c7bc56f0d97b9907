"""Tasks by lm-evaluation-harness: it answers as a plain loop does, and what is wrong is said before work."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import task_rows
import tiny_llama

from slimgpt.errors import ConfigError
from slimgpt.evaluation import harness, suite

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval")

NUM_ROWS = 12
CONTEXT = 256


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama.make_model(max_position_embeddings=CONTEXT)


@pytest.fixture
def tokenizer() -> Any:
    return tiny_llama.make_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    assert len(dict(task_rows.all_tasks(folder, suite.METRICS, NUM_ROWS))) == 7
    return folder


@pytest.fixture(scope="module")
def answered(model: Any, folder: Path) -> dict[str, Any]:
    return harness.run(model, tiny_llama.make_tokenizer(), harness.load(list(suite.METRICS), None, str(folder)))


@pytest.mark.parametrize("task", suite.METRICS)
def test_agrees_with_a_plain_loop(model: Any, tokenizer: Any, answered: dict[str, Any], task: str) -> None:
    expected = task_rows.accuracies(model, tokenizer, task, task_rows.made_up(task, NUM_ROWS))
    found = answered["results"][task]
    metrics = ["acc"] if task in ("boolq", "winogrande") else ["acc", "acc_norm"]
    assert {metric: found[f"{metric},none"] for metric in metrics} == {m: expected[m] for m in metrics}
    for metric in metrics:
        spread = math.sqrt(expected[metric] * (1 - expected[metric]) / (NUM_ROWS - 1))
        assert found[f"{metric}_stderr,none"] == pytest.approx(spread)
    assert answered["n-samples"][task] == {"original": NUM_ROWS, "effective": NUM_ROWS}
    assert answered["n-shot"][task] == 0


def test_the_loop_can_disagree(model: Any, tokenizer: Any, answered: dict[str, Any]) -> None:
    """Negative control: another model answers otherwise."""
    other = tiny_llama.make_model(seed=1, max_position_embeddings=CONTEXT)
    differences = [
        answered["results"][task]["acc,none"]
        != task_rows.accuracies(other, tokenizer, task, task_rows.made_up(task, NUM_ROWS))["acc"]
        for task in suite.METRICS
    ]
    assert any(differences)


def test_the_mean_is_that_of_the_papers_metrics(answered: dict[str, Any]) -> None:
    results = answered["results"]
    values = [results[task][f"{metric},none"] for task, metric in suite.METRICS.items()]
    found = suite.mean(results)
    assert len(values) == 7
    assert found["acc,none"] == pytest.approx(sum(values) / 7)
    variance = sum(results[task][f"{metric}_stderr,none"] ** 2 for task, metric in suite.METRICS.items())
    assert found["acc_stderr,none"] == pytest.approx(math.sqrt(variance) / 7)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_changes_nothing(model: Any, tokenizer: Any, folder: Path, answered: Any, batch_size: int) -> None:
    loaded = harness.load(list(suite.METRICS), None, str(folder))
    assert harness.run(model, tokenizer, loaded, batch_size=batch_size)["results"] == answered["results"]


def test_limit_takes_the_first_rows(model: Any, tokenizer: Any, folder: Path) -> None:
    found = harness.run(model, tokenizer, harness.load(["arc_easy"], None, str(folder)), limit=5)
    expected = task_rows.accuracies(model, tokenizer, "arc_easy", task_rows.made_up("arc_easy", 5))
    assert found["results"]["arc_easy"]["acc,none"] == expected["acc"]
    assert found["n-samples"]["arc_easy"] == {"original": NUM_ROWS, "effective": 5}


def test_examples_go_before_the_question(model: Any, tokenizer: Any, folder: Path) -> None:
    loaded = harness.load(["openbookqa"], None, str(folder))
    found = harness.run(model, tokenizer, loaded, limit=2, num_fewshot=2)
    assert found["n-shot"]["openbookqa"] == 2
    context, _ = loaded["tasks"]["openbookqa"].instances[0].args
    assert context.count("\n\n") == 2
    assert context.endswith(task_rows.made_up("openbookqa")[0]["query"])


# --- where tasks come from --------------------------------------------------------------------------

OWN_TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: options
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


def own_task(folder: Path, name: str) -> None:
    rows = [
        {"question": "a b", "options": ["c", "dd"], "answer": 0},
        {"question": "e", "options": ["f", "g"], "answer": 1},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(OWN_TASK.format(name=name, rows=folder / "rows.jsonl"))


def test_task_files_of_ones_own(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    own_task(tmp_path, "mine")
    found = harness.run(model, tokenizer, harness.load(["mine"], str(tmp_path)))
    assert set(found["results"]) == {"mine"}
    assert found["n-samples"]["mine"]["effective"] == 2


def test_a_task_file_of_ones_own_wins_over_the_suites(folder: Path, tmp_path: Path) -> None:
    own_task(tmp_path, "boolq")
    loaded = harness.load(["boolq", "piqa"], str(tmp_path), str(folder))
    assert loaded["tasks"]["boolq"].config.doc_to_choice == "options"
    assert loaded["tasks"]["piqa"].config.doc_to_choice == "choices"


def test_a_group_of_ones_own_may_hold_tasks_of_the_harness(tmp_path: Path) -> None:
    own_task(tmp_path, "mine")
    (tmp_path / "all.yaml").write_text("group: ours\ntask: [mine]\naggregate_metric_list: [{metric: acc}]\n")
    loaded = harness.load(["ours"], str(tmp_path))
    assert (set(loaded["groups"]), set(loaded["tasks"])) == ({"ours"}, {"mine"})


def test_a_name_that_nobody_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"nobody knows a task 'helaswag'; did you mean 'hellaswag'"):
        harness.load(["helaswag"])


def test_rows_that_are_on_the_hub_alone_are_named() -> None:
    """The tests have no network."""
    with pytest.raises(ConfigError, match=r"the rows of task 'piqa' cannot be read .*\. Give --task-data DIR"):
        harness.load(["piqa"])


def test_missing_rows_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--task-data '.*' has no rows of piqa: put piqa.jsonl there, or leave"):
        harness.load(["piqa"], None, str(tmp_path))
    (tmp_path / "piqa.jsonl").touch()
    with pytest.raises(ConfigError, match="has no rows of piqa"):
        harness.load(["piqa"], None, str(tmp_path))
    with pytest.raises(ConfigError, match=r"--task-data '.*none' is not a folder: name the one with boolq.jsonl"):
        harness.load(["boolq"], None, str(tmp_path / "none"))


@pytest.mark.parametrize("text", ['{"query": "only"}\n', "no JSON at all\n"])
def test_rows_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "piqa.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=r"the rows of task 'piqa' cannot be read \(.+\)\. Mend its file in"):
        harness.load(["piqa"], None, str(tmp_path))


def test_a_missing_task_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="--task-dir 'none' is not a folder: name one with task files"):
        harness.load(["boolq"], "none")


def test_without_the_harness_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"need lm-evaluation-harness, .*: pip install 'slimgpt\[eval\]'"):
        harness.load(["boolq"])
