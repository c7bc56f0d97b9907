"""Every command that writes, through the command line: what stands at OUT, a run at work there, a disk that is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from study_shop import Pretended
from writers import STANDING, WRITERS, Inputs, Writer, largest_file, look

import slimgpt.studies
from slimgpt import cli
from slimgpt.machine.folder_lock import FolderLock, partial_folder

Run = Callable[..., str]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> Writer:
    return WRITERS[request.param]


@pytest.fixture
def out(writer: Writer, tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / writer.out


@pytest.fixture(autouse=True)
def cells_in_no_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cells of a study are commands of their own, which are tried here by themselves."""
    monkeypatch.setattr(slimgpt.studies.study, "__defaults__", (None, Pretended()))
    yield


@pytest.fixture
def run(writer: Writer, inputs: Inputs, out: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(status: int, *flags: str) -> str:
        capsys.readouterr()
        assert cli.main(writer.command(inputs, out, *flags)) == status
        return capsys.readouterr().err

    return command


def one_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith("slimgpt: error:")]
    assert len(lines) == 1 and "Traceback" not in said, said
    return lines[0]


# --- what stands there -----------------------------------------------------------------------------


@pytest.mark.parametrize("writer", sorted({*WRITERS} - {"report", "report --figures"}), indirect=True)
@pytest.mark.parametrize("what", STANDING)
def test_what_is_not_slimgpts_is_left_alone(writer: Writer, out: Path, run: Run, what: str) -> None:
    if writer is WRITERS["study"] and what == "link to a folder":
        pytest.skip("a study works in a folder and puts nothing in its place")
    STANDING[what](out)
    before = look(out.parent)
    assert str(out) in one_line(run(2, *(["--force"] if writer.own else [])))
    assert look(out.parent) == before


@pytest.mark.parametrize("writer", ["report"], indirect=True)
@pytest.mark.parametrize("what", sorted({*STANDING} - {"file"}))
def test_a_page_takes_the_place_of_files_alone(out: Path, run: Run, what: str) -> None:
    STANDING[what](out)
    before = look(out.parent)
    assert "is a" in one_line(run(2, "--force"))
    assert look(out.parent) == before


@pytest.mark.parametrize("writer", ["report --figures"], indirect=True)
@pytest.mark.parametrize("what", sorted({*STANDING} - {"folder", "link to a folder"}))
def test_figures_go_into_folders_alone(out: Path, run: Run, what: str) -> None:
    STANDING[what](out)
    before = look(out.parent)
    assert "name a folder" in one_line(run(2, "--force"))
    assert look(out.parent) == before


@pytest.mark.parametrize("writer", ["report --figures"], indirect=True)
@pytest.mark.parametrize("what", sorted({*STANDING} - {"file"}))
def test_figures_take_the_place_of_files_alone(out: Path, run: Run, what: str) -> None:
    out.mkdir()
    STANDING[what](out / "kept-attention-1.png")
    before = look(out)
    assert "kept-attention-1.png is a" in one_line(run(2, "--force"))
    assert look(out) == before


@pytest.mark.parametrize("writer", [name for name in WRITERS if WRITERS[name].own], indirect=True)
def test_what_is_slimgpts_is_replaced_where_that_is_asked_for(writer: Writer, out: Path, run: Run) -> None:
    assert writer.own is not None
    writer.own(out)
    before = look(out.parent)
    assert "exists" in one_line(run(2))
    assert look(out.parent) == before
    run(0, "--force")
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert look(out.parent) != before


# --- a run at work there ---------------------------------------------------------------------------


def test_a_run_at_work_keeps_others_out(writer: Writer, out: Path, run: Run) -> None:
    flags = [(), *([("--force",)] if writer.own else []), *([writer.keeps] if writer.keeps else [])]
    folder = out / "figures.partial" if writer is WRITERS["report --figures"] else partial_folder(out)
    with FolderLock(folder):
        before = look(out.parent)
        for given in flags:
            assert "another slimgpt run is at work" in one_line(run(2, *given))
            assert look(out.parent) == before
    run(0)


# --- a disk that is full ---------------------------------------------------------------------------


def test_a_full_disk_is_said_in_one_line_and_nothing_half_written_stays(writer: Writer, out: Path, run: Run) -> None:
    with largest_file(writer.limit):
        said = one_line(run(2))
    assert "ulimit -f" in said
    assert "make room" in said.lower()
    left = {path.name for path in out.parent.rglob("*") if path.is_file()}
    assert not {name for name in left if name.endswith(".tmp")}
    assert bool(left) == (writer.keeps is not None)
    run(0, *(writer.keeps or ()))
    assert out.exists() and not partial_folder(out).exists()


@pytest.mark.parametrize("writer", ["prune", "recover"], indirect=True)
def test_what_is_finished_can_be_resumed(out: Path, run: Run) -> None:
    with largest_file(20_000):
        assert "give the same command with --resume" in one_line(run(2))
    assert not out.exists()
    assert (partial_folder(out) / "journal.json").exists()


@pytest.mark.parametrize("writer", ["sparsify"], indirect=True)
def test_the_limit_is_what_stops_them(run: Run) -> None:
    """Negative control."""
    with largest_file(1 << 30):
        run(0)


def test_flags_are_those_that_the_commands_have(writer: Writer, inputs: Inputs, out: Path, capsys: Any) -> None:
    """Or the tests above would leave out what somebody can give."""
    assert cli.main(writer.command(inputs, out, "--help")) == 0
    shown = capsys.readouterr().out
    assert ("--resume" in shown) == bool(writer.keeps)
    assert ("--force" in shown) == (writer.own is not None or writer is WRITERS["report --figures"])
