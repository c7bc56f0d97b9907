"""Records that vouch for files: what was written comes back, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from damage import KINDS

from slimgpt.errors import DamagedError, DamageWarning, UnsealedError
from slimgpt.machine.seals import FILES, all_hashes, hashes, intact, seal, unseal

CONTENT = {"kept": [0, 2, 5], "loss": [0.25, 1e-300, float("inf")], "name": "ä\u2028", "nested": {"b": None, "a": True}}
OF = [{"seed": 0, "ratio": None}, 3]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)))
    (tmp_path / "inner" / "log").write_text("said")
    seal(tmp_path / "record.json", CONTENT, OF, all_hashes(tmp_path))
    return tmp_path / "record.json"


def test_what_was_sealed_comes_back_with_its_files(record: Path) -> None:
    found = unseal(record, OF)
    assert found is not None
    assert list(found.pop(FILES)) == ["inner/log", "weights.bin"]
    assert found == CONTENT


def test_where_there_is_nothing_nothing_is_said(tmp_path: Path) -> None:
    assert unseal(tmp_path / "none.json", OF) is None
    (tmp_path / "file").touch()
    assert unseal(tmp_path / "file" / "none.json", OF) is None


def test_a_record_may_vouch_for_nothing_but_itself(tmp_path: Path) -> None:
    seal(tmp_path / "r.json", CONTENT, OF)
    assert unseal(tmp_path / "r.json", OF) == CONTENT


@pytest.mark.parametrize("of", [[{"seed": 1, "ratio": None}, 3], [{"seed": 0, "ratio": None}, 4], "3", None])
def test_a_sound_record_of_something_else_is_none_of_ours(record: Path, of: Any) -> None:
    with pytest.raises(DamagedError, match=r"record\.json is damaged, or from another run"):
        unseal(record, of)


@pytest.mark.parametrize("file", ["weights.bin", "inner/log"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named(record: Path, file: str, kind: str) -> None:
    path = record.parent / file
    damaged = KINDS[kind](path.read_bytes(), b"another run's")
    path.unlink() if damaged is None else path.write_bytes(damaged)
    reason = "gone" if damaged is None else "damaged, or from another run"
    with pytest.raises(DamagedError, match=f"{file} is {reason}"):
        unseal(record, OF)
    found = unseal(record, OF, checked=lambda name: name != file)
    assert found is not None and found["kept"] == CONTENT["kept"]


def test_every_flipped_bit_of_a_record_changes_nothing_or_is_noticed(record: Path) -> None:
    """Nothing changes where it is in white space."""
    sound, whole = unseal(record, OF), record.read_bytes()
    for index in range(len(whole)):
        for bit in range(8):
            record.write_bytes(whole[:index] + bytes([whole[index] ^ (1 << bit)]) + whole[index + 1 :])
            try:
                assert str(unseal(record, OF)) == str(sound), (index, bit)
            except DamagedError:
                continue


@pytest.mark.parametrize("length", [0, 1, 20, -1])
def test_a_record_that_ends_too_soon_is_damaged(record: Path, length: int) -> None:
    record.write_bytes(record.read_bytes().rstrip()[:length])
    with pytest.raises(DamagedError):
        unseal(record, OF)


@pytest.mark.parametrize("text", ["", "[]", "7", "null", '"x"', "[[1, 2, 3]]", "[" * 100_000, "\x00", '{"a": 1e999'])
def test_what_is_no_record_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DamagedError):
        unseal(tmp_path / "r.json", OF)


def test_a_folder_in_a_record_s_place_is_damage(tmp_path: Path) -> None:
    (tmp_path / "r.json").mkdir()
    with pytest.raises(DamagedError):
        unseal(tmp_path / "r.json", OF)


def test_a_record_of_an_older_version_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(CONTENT))
    with pytest.raises(UnsealedError, match=r"r\.json has no hash, so an older slimgpt wrote it"):
        unseal(tmp_path / "r.json", OF)


def test_damage_is_said_with_what_is_done_about_it(record: Path) -> None:
    (record.parent / "weights.bin").write_bytes(b"")
    with pytest.warns(DamageWarning, match=r"weights\.bin is damaged, or from another run: it is weighed again\."):
        assert intact(record, OF, "it is weighed again") is None


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert hashes(tmp_path, ["file"]) == {"file": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
