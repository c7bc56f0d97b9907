"""What a command says never stops it, wherever it goes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_llama

from slimgpt import cli
from slimgpt.cli.streams import lost, patient_streams

FULL = Path("/dev/full")
MUCH = 10_000  # lines: more than a pipe holds


@contextmanager
def stdout_is(number: int, encoding: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    stream = io.TextIOWrapper(io.FileIO(number, "w"), encoding=encoding, errors="strict", write_through=False)
    monkeypatch.setattr(sys, "stdout", stream)
    yield stream
    monkeypatch.undo()


def test_every_character_is_taken_and_the_stream_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = os.open(tmp_path / "said", os.O_WRONLY | os.O_CREAT)
    with stdout_is(number, "ascii", monkeypatch) as stream:
        with patient_streams():
            print("60 – 70 %, 語")
            assert lost() is None
        assert sys.stdout is stream
        with pytest.raises(UnicodeEncodeError):  # the negative control
            print("–")
    assert (tmp_path / "said").read_text() == "60 ? 70 %, ?\n"


def test_a_reader_that_leaves_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with stdout_is(write, "utf-8", monkeypatch), patient_streams():
        os.close(read)
        for line in range(MUCH):
            print("line", line)
        assert lost() is None


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_disk_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    with stdout_is(os.open(FULL, os.O_WRONLY), "utf-8", monkeypatch), patient_streams():
        for line in range(MUCH):
            print("line", line)
        failure = lost()
        assert failure is not None and "No space left" in str(failure)


def test_streams_of_somebody_else_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", said)
    with patient_streams():
        print("–")
        assert sys.stdout is said
    assert said.getvalue() == "–\n"


def test_a_stream_that_is_not_there_is_nothing_to_fall_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with patient_streams():
        print("nobody hears it")
        sys.stdout.write("nor this")
    assert sys.stdout is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("streams") / "model")


OPTIONS = "--calibration builtin --samples 2 --seqlen 32 --solver magnitude --allocation log --device cpu"


@pytest.mark.parametrize("how", ["| true", pytest.param(">&- 2>&-", marks=pytest.mark.nightly)])
def test_a_run_goes_on_without_anybody_who_listens(model: Path, tmp_path: Path, how: str) -> None:
    """In a shell of its own: such are the streams of a real process."""
    command = f"'{sys.executable}' -m slimgpt prune '{model}' '{tmp_path}/out' {OPTIONS}"
    script = f"set -o pipefail; {command} {how}"
    done = subprocess.run(["bash", "-c", script], env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_command_says_that_its_words_are_lost(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "lost", lambda: OSError(28, "No space left on device"))
    assert cli.main(["inspect", str(model)]) == 2
    assert "slimgpt: error: what was said cannot be written ([Errno 28] No space left" in capsys.readouterr().err


def test_arguments_that_cannot_be_written_down_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "caf\udce9"]) == 2
    assert "'caf\\udce9' is not UTF-8: rename what it names" in capsys.readouterr().err
