"""``--quiet`` and ``--json-log``: what is said beside the answer, of every command, wherever the flag stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_llama

from slimgpt import cli
from slimgpt.reports.loudness import Loudness, err, talking_to
from slimgpt.reports.progress import Headway


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog. " * 400)
    return file


def prune(model: Path, out: Path, text: Path, *more: str) -> int:
    options = ["--ratio", "0.2", "--calibration", str(text), "--samples", "4", "--seqlen", "32"]
    return cli.main(["prune", str(model), str(out), *options, *more])


def objects(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def test_people_are_told_the_plan_and_how_far_it_is(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(model, tmp_path / "out", text) == 0
    said = capsys.readouterr()
    assert "Plan:" in said.out and "Result" in said.out and "Written to" in said.out


def test_quiet_leaves_the_answer(model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(model, tmp_path / "out", text, "--quiet") == 0
    said = capsys.readouterr()
    assert "Plan:" not in said.out and "Written to" in said.out and not said.err
    assert cli.main(["--quiet", "inspect", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "Parameters by part" in said.out and not said.err


def test_every_line_for_machines_is_an_object(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(model, tmp_path / "out", text, "--json-log") == 0
    said = capsys.readouterr()
    lines = objects(said.err)
    assert "Plan:" not in said.out
    assert {line["kind"] for line in lines} >= {"progress"} and all(line["time"] > 0 for line in lines)
    works = [line["work"] for line in lines if line["kind"] == "progress"]
    assert works[-1] == "writing" and any(work.startswith("layer 0/") for work in works)


@pytest.mark.parametrize("flag", ["--quiet", "--json-log"])
def test_errors_are_said_whoever_listens(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag, "inspect", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err
    if flag == "--json-log":
        assert "nowhere" in objects(said)[-1]["text"] and objects(said)[-1]["kind"] == "error"
    else:
        assert said.startswith("slimgpt: error: ") and "nowhere" in said and said.count("\n") == 1


def test_both_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["families", "--quiet", "--json-log"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_progress_says_shares_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with talking_to(Loudness.MACHINES):
        shown = Headway(err, lambda: now, lambda wait: True)
        shown.begin("measuring", total=4)
        now = 40.0
        shown.advance()
        shown._print()
        shown.said("[something] to know")
        shown.close()
    lines = objects(capsys.readouterr().err)
    assert [line["share"] for line in lines[:2]] == [0.0, 0.25]
    assert lines[0]["seconds_left"] is None and (lines[1]["seconds"], lines[1]["seconds_left"]) == (40, 120)
    assert lines[2]["kind"] == "note" and lines[2]["text"] == "[something] to know"


def test_nothing_is_left_of_it_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    with talking_to(Loudness.NOBODY):
        pass
    with Headway(err, wait=lambda wait: True) as shown:
        shown.said("heard")
    assert capsys.readouterr().err.strip().endswith("heard")
