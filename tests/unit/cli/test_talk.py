"""``slimgpt chat`` and ``slimgpt compare``: what a user types and sees."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_llama

from slimgpt import cli, generate, load_model, prune
from slimgpt.model.generation import reply
from slimgpt.reports import console

SHORT = ["--max-new-tokens", "6", "--device", "cpu"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model and a smaller one."""
    folder = tmp_path_factory.mktemp("talk")
    dense = tiny_llama.save_model(folder / "dense")
    return str(dense), str(prune(tiny_llama.prune_config(dense, folder / "out")).path)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user will type, line by line; then the input ends."""
    waiting: list[str] = []

    def ask(prompt: str) -> str:
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    monkeypatch.setattr(builtins, "input", ask)
    return waiting


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(console.out, "width", 400)
    yield


def flowing(text: str) -> str:
    """On one line, without what a table keeps from the terminal."""
    return " ".join("".join(char for char in text if char.isprintable() or char.isspace()).split())


def test_both_answers_stand_side_by_side(models: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *models, "what is this", *SHORT]) == 0
    shown = flowing(capsys.readouterr().out)
    for name in models:
        for line in generate(*load_model(name, "cpu"), "what is this", 6).splitlines():
            assert set(flowing(line).split()) <= set(shown.split())


def test_a_conversation_is_remembered(
    models: tuple[str, str], typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed += ["what is this", "and that", "", "never said"]
    assert cli.main(["chat", models[1], *SHORT]) == 0
    shown = capsys.readouterr().out
    model, tokenizer = load_model(models[1], "cpu")
    first = {"role": "user", "content": "what is this"}
    said = reply(model, tokenizer, [first], 6).strip()
    answered = {"role": "assistant", "content": said}
    then = reply(model, tokenizer, [first, answered, {"role": "user", "content": "and that"}], 6).strip()
    assert shown == f"{said}\n{then}\n"
    assert typed == ["never said"], "an empty line ends it"


def test_two_models_hear_the_same(
    models: tuple[str, str], typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed += ["what is this"]
    assert cli.main(["chat", models[1], "--against", models[0], *SHORT]) == 0
    shown = flowing(capsys.readouterr().out)
    for name in models:
        for line in generate(*load_model(name, "cpu"), "what is this", 6, chat=True).splitlines():
            assert set(flowing(line).split()) <= set(shown.split())


def test_a_model_without_a_template_does_not_chat(
    models: tuple[str, str], typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tiny_llama.save_model(tmp_path / "bare")
    for file in ("chat_template.jinja",):
        (bare / file).unlink()
    typed += ["hello"]
    assert cli.main(["chat", str(bare), *SHORT]) == 2
    assert "has no chat template" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["compare", "m", "o", ""], ["compare", "m", "o", "p", "--max-new-tokens", "0"]])
def test_options_have_rules(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command) == 2
    assert capsys.readouterr().err.startswith("slimgpt: error: ")
