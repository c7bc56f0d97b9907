"""Where an output goes: nothing is replaced that is not ours, one run at a time, nothing is left of what failed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from writers import STANDING, look

from slimgpt.errors import ConfigError, OutputError, ProofError
from slimgpt.output.place import JOURNAL, Place
from slimgpt.output.single_file import single_file
from slimgpt.output.standing import GGUF, MODEL, NEW_FILE, PAGE, Kind

KINDS = {"folder": MODEL, "gguf": GGUF, "page": PAGE, "new file": NEW_FILE}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "out"


# --- what stands there -----------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", STANDING)
def test_what_is_not_ours_is_left_alone_and_named(out: Path, what: str, kind: str, force: bool) -> None:
    STANDING[what](out)
    if what == "file" and kind == "page" and force:
        return  # that is what it is for
    before = look(out.parent)
    with pytest.raises(OutputError, match=r"OUT .*out (is a|exists|is no GGUF file|has no slimgpt\.json)"):
        Place(out, KINDS[kind]).check(None, 0, force)
    assert look(out.parent) == before


@pytest.mark.parametrize("what", STANDING)
def test_nor_is_what_has_come_to_stand_there_while_a_run_was_at_work(out: Path, what: str) -> None:
    place = Place(out)
    with pytest.raises(OutputError, match=r"OUT .*out (is a|has no slimgpt\.json)"), place.work(force=True):
        place.finished.mkdir()
        STANDING[what](out)
        before = look(out)
        place.publish()
    assert look(out) == before
    assert not place.partial.exists()


@pytest.mark.parametrize("what", STANDING)
def test_a_working_folder_that_is_not_ours_is_left_alone(out: Path, what: str) -> None:
    STANDING[what](out.with_name("out.partial"))
    before = look(out.parent)
    with pytest.raises(OutputError, match=r"the run would work in .*out\.partial, a.* that slimgpt did not make"):
        Place(out).check(None, 0, force=True)
    assert look(out.parent) == before


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("dangling link", "is a link: name a folder itself, not a link."),
        ("pipe", "is a pipe: name a folder."),
        ("device", "is a device: name a folder."),
        ("file", "is a file: name a folder."),
        ("folder", "has no slimgpt.json, so slimgpt did not make it and --force does not replace it"),
    ],
)
def test_the_message_says_what_it_is(out: Path, what: str, words: str) -> None:
    STANDING[what](out)
    with pytest.raises(OutputError) as refused:
        Place(out).check(None, 0, force=True)
    assert words in str(refused.value)


def test_a_disk_of_its_own_keeps_its_name(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    with pytest.raises(OutputError, match="is a disk of its own, which has to keep its name: name a folder in it"):
        Place(out).check(None, 0, force=True)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_disk_bears_are_refused(out: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"OUT .* is no path .*: choose another"):
        Place(out.with_name(name))


def test_links_that_go_round_in_a_circle_are_refused(out: Path) -> None:
    out.symlink_to(out.with_name("other"))
    out.with_name("other").symlink_to(out)
    with pytest.raises(OutputError, match="is a link"):
        Place(out).check(None, 0, force=True)


@pytest.mark.parametrize(("kind", "content"), [(GGUF, b"GGUF..."), (GGUF, b""), (PAGE, b"<html>")])
def test_force_replaces_files_of_ours(out: Path, kind: Kind, content: bytes) -> None:
    out.write_bytes(content)
    place = Place(out, kind)
    with pytest.raises(OutputError, match="exists: choose another name, or replace it with --force"):
        place.check(None, 0, force=False)
    place.check(None, 0, force=True)
    with place.work(force=True):
        place.finished.write_text("new")
        place.publish()
    assert out.read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


# --- one at a time ---------------------------------------------------------------------------------


def test_of_two_runs_the_second_is_refused_whatever_it_brings(out: Path) -> None:
    first, second = Place(out), Place(out)
    first.hold(force=False)
    for force in (False, True):
        for resume in (False, True):
            with pytest.raises(OutputError, match="another slimgpt run is at work"):
                second.check(None, 0, force, resume)
            with pytest.raises(OutputError, match="another slimgpt run is at work"):
                second.hold(force, resume)
    with pytest.raises(OutputError, match="another slimgpt run is at work"), second.work(force=True):
        raise AssertionError
    first.close()
    second.hold(force=False)
    second.close()
    assert not list(out.parent.iterdir())


def test_who_comes_by_another_way_is_refused_too(out: Path) -> None:
    (way := out.parent.with_name("way")).symlink_to(out.parent)
    first = Place(out)
    first.hold(force=False)
    with pytest.raises(OutputError, match="another slimgpt run is at work"):
        Place(way / "out").hold(force=False)
    first.close()


def test_an_output_that_was_finished_between_check_and_hold_is_not_replaced(out: Path) -> None:
    late = Place(out)
    late.check(None, 0, force=False)
    with (first := Place(out)).work(force=False):
        first.finished.mkdir()
        (first.finished / "slimgpt.json").write_text("first")
        first.publish()
    with pytest.raises(OutputError, match="exists"):
        late.hold(force=False)
    assert (out / "slimgpt.json").read_text() == "first"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


# --- what is left ----------------------------------------------------------------------------------


def left_by_a_killed_run(place: Place) -> None:
    place.partial.mkdir()
    for name in ("slimgpt.lock", "layer-00000.safetensors"):
        (place.partial / name).touch()
    place.finished.mkdir()


def test_what_a_killed_run_has_left_is_cleared_where_there_is_nothing_to_resume(out: Path) -> None:
    place = Place(out)
    left_by_a_killed_run(place)
    place.check(None, 0, force=False)
    with place.work(force=False) as folder:
        assert [path.name for path in folder.iterdir()] == ["slimgpt.lock"]
    assert not list(out.parent.iterdir())


def test_the_work_of_a_run_that_can_be_resumed_is_not_cleared_unasked(out: Path) -> None:
    place = Place(out)
    left_by_a_killed_run(place)
    (place.partial / JOURNAL).touch()
    with pytest.raises(OutputError, match=r"an unfinished run is in .*: continue it with --resume, or drop it"):
        place.check(None, 0, force=False)
    with pytest.raises(OutputError, match="an unfinished run"), place.work(force=False):
        raise AssertionError
    assert (place.partial / "layer-00000.safetensors").exists()
    with place.work(force=True) as folder:
        assert [path.name for path in folder.iterdir()] == ["slimgpt.lock"]


def test_a_run_that_died_between_the_renames_is_set_right(out: Path) -> None:
    place = Place(out)
    left_by_a_killed_run(place)
    (place.partial / "replaced").mkdir()
    (place.partial / "replaced" / "slimgpt.json").write_text("older")
    with pytest.raises(OutputError, match="exists"):
        place.check(None, 0, force=False)
    assert (out / "slimgpt.json").read_text() == "older"


@pytest.fixture(params=[errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=["full", "quota", "limit"])
def full(request: pytest.FixtureRequest) -> Iterator[OSError]:
    yield OSError(request.param, os.strerror(request.param))


def test_a_full_disk_is_said_and_nothing_is_left(out: Path, full: OSError) -> None:
    with pytest.raises(OutputError) as refused, Place(out).work(force=False) as folder:
        (folder / "half").touch()
        raise full
    assert str(refused.value).startswith(f"{out.parent}: ")
    assert "Nothing was kept. Make room, and give the same command again." in str(refused.value)
    assert not list(out.parent.iterdir())


def test_a_full_disk_leaves_what_can_be_resumed(out: Path, full: OSError) -> None:
    place = Place(out)
    place.hold(force=False)
    place.finished.mkdir()
    (place.partial / JOURNAL).touch()
    with pytest.raises(OutputError, match="give the same command with --resume"), place.full_disk_named(10 << 20):
        raise full
    place.close()
    assert [path.name for path in place.partial.iterdir()] == [JOURNAL]


def test_what_could_not_be_proved_stays_until_the_next_run(out: Path) -> None:
    place = Place(out)
    with pytest.raises(ProofError), place.work(force=False):
        place.finished.mkdir()
        raise ProofError
    assert place.finished.is_dir()
    place.check(None, 0, force=False)
    with place.work(force=False):
        assert not place.finished.exists()


# --- files beside what is printed ------------------------------------------------------------------


def test_a_file_is_there_when_it_is_written_and_not_before(out: Path) -> None:
    with single_file(str(out)) as file:
        assert not out.exists()
        file.write_json({"a": 1})
        assert out.read_text() == '{\n  "a": 1\n}\n'
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_no_file_is_asked_for(tmp_path: Path) -> None:
    with single_file(None) as file:
        file.write_json({})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_not_made(out: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"--json .* cannot be written: there is no folder .*no\. Make it first"),
        single_file(str(out.with_name("no") / "out.json")),
    ):
        raise AssertionError
