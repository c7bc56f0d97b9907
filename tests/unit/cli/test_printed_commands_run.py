"""Every command that README and documentation print does what it says, on a model of a few thousand parameters.

Only magnitudes differ: what a real model takes millions of is small here, and calibration is a text that is at hand.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mixtures
import pytest
import task_rows
import worded
from test_printed_commands import CASES, ROOT

from slimgpt import cli
from slimgpt.evaluation.suite import METRICS

DENSE = ("my-model", "MODEL", "DENSE", "dense")
MIXTURE, FEWER_EXPERTS = "my-mixture", "fewer-experts"
PRUNED = ("smaller", "smaller-20", "smaller-25", "smaller-50", "pruned", "PRUNED", "half", "three-quarters", "better")
TEXTS = ("my-text.jsonl", "text.jsonl", "chats.jsonl", "my-chats.jsonl", "instructions.jsonl", "reviews.csv")
TEXTS += ("wiki.test.txt", "held-out.txt", "notes.txt", "en.jsonl", "de.jsonl", "code/one.py", "corpus/one.txt")

SMALL = {"64000": "400", "200MB": "200KB", "4": "1", "512": "16", "64": "8", "15": "2", "24": "2", "8": "2"}
SMALL |= {"0.5": "0.4", "150M": "82K"}
SIZES = {"--keep", "--target-size", "--layers", "--prompt-tokens", "--new-tokens", "--batch-size", "--repeats"}
SIZES |= {"--search-candidates", "--epochs", "--ratio", "--experts-multiple-of", "--samples", "--target-params"}
"""Options whose values are for real models, and what stands for them."""

CALIBRATED = {"--samples": "4", "--seqlen": "32", "--calibration": "text.jsonl"}
FEWER = {
    **{name: CALIBRATED for name in ("prune", "sparsify", "drop")},
    "eval": {"--seqlen": "32", "--max-tokens": "256"},
    "bench": {"--warmup": "0", "--repeats": "2", "--prompt-tokens": "8", "--new-tokens": "4"},
    "recover": {"--max-steps": "2", "--seqlen": "32", "--batch-size": "2", "--warmup": "0", "--keep": "last"},
    "generate": {"--max-new-tokens": "4"},
    "compare": {"--max-new-tokens": "4"},
}
TO_TRAIN = {"--samples": "40"}  # an effort trains on them
"""What a command is told besides: less work, and text that is at hand in place of the hub's."""

ELSEWHERE = {
    "cuda": "needs a GPU",
    "meta-llama/": "names a model of the hub",
    "vllm": "needs vLLM: tests/vllm",
    "hellaswag": "takes its rows from the hub",
    "study": "hours: tests/unit/studies and the notebook run smaller ones",
    "onnx": "needs onnxruntime: tests/export",
    "--verify": "needs llama.cpp: tests/export",
    "--help": "a page: test_help",
}
WRITING = {"prune", "sparsify", "drop", "trim", "recover", "export"}


def reason(words: list[str]) -> str | None:
    """Why a command cannot run here."""
    return next((why for part, why in ELSEWHERE.items() if any(part in word for word in words)), None)


def told(words: list[str]) -> list[str]:
    """The command with small magnitudes."""
    before = ["", *words]
    given = [SMALL.get(word, word) if flag in SIZES else word for flag, word in zip(before, words, strict=False)]
    less = {**FEWER.get(words[0], {}), **(TO_TRAIN if "high" in words else {})}
    for flag, value in less.items():
        if flag not in words:
            given += [flag, value]
    return given + (["--task-data", "tasks"] if "--suite" in words and "--task-data" not in words else [])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has all that the pages speak of."""
    folder = tmp_path_factory.mktemp("stage")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    for name in TEXTS:
        write_text(folder / name)
    (folder / "tasks").mkdir()
    assert list(task_rows.all_tasks(folder / "tasks", METRICS, 4))
    worded.save_model(folder / "my-model", "byte level")
    mixtures.save_mixture(folder / MIXTURE, "qwen3_moe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "prune my-model smaller --ratio 0.1 --allocation log --calibration text.jsonl",
            "trim my-model fewer-tokens --text notes.txt --keep 64000",
            f"prune {MIXTURE} {FEWER_EXPERTS} --experts 0.25 --calibration text.jsonl",
            "eval my-model --text wiki.test.txt --json eval.json",
        ):
            assert cli.main(told(line.split())) == 0
    for names in (DENSE, PRUNED):
        for name in names[1:]:
            shutil.copytree(folder / names[0], folder / name)
    shutil.move(folder / "eval.json", folder / "dense" / "eval.json")
    return folder


def write_text(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = [f"Line {number} of a text about birds, elms and green hills." for number in range(120)]
    if path.name in ("chats.jsonl", "my-chats.jsonl", "instructions.jsonl"):
        rows = [[{"role": "user", "content": "Who?"}, {"role": "assistant", "content": line}] for line in lines]
        content = "".join(json.dumps({"messages": row}) + "\n" for row in rows)
    elif path.suffix == ".jsonl":
        content = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    elif path.suffix == ".csv":
        content = "body\n" + "".join(f'"{line}"\n' for line in lines)
    else:
        content = "\n".join(lines)
    path.write_text(content, encoding="utf-8")


def made_by(words: list[str]) -> list[str]:
    """What a command writes where something of the stage stands."""
    files = [words[words.index(flag) + 1] for flag in ("--json", "-o", "--out") if flag in words]
    return files + ([words[2]] if words[0] in WRITING else [])


def case(page: str, words: list[str]) -> Any:
    """Those of README with the fast tests, all others nightly."""
    marks = [] if page == "README.md" and words[0] != "bench" else [pytest.mark.nightly]  # bench has tests, and waits
    return pytest.param(page, words, id=f"{page}: {' '.join(words)}", marks=marks)


@pytest.mark.parametrize(("page", "words"), [case(*printed) for printed in CASES])
def test_it_runs(page: str, words: list[str], stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (why := reason(words)) is not None:
        pytest.skip(why)
    shutil.copytree(stage, tmp_path, dirs_exist_ok=True)
    for name in made_by(words):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(told(words)) == 0
    assert all((tmp_path / name).exists() for name in made_by(words))


def test_most_of_them_ran() -> None:
    ran = [words for _, words in CASES if reason(words) is None]
    assert len(ran) > 0.6 * len(CASES) and {words[0] for words in ran} >= WRITING | {"eval", "bench", "report"}
