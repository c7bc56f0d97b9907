"""YAML files as people do not write them: bombs, names given twice, numbers beyond all sense."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from slimgpt.config import PruneConfig, read_recipe
from slimgpt.config.paths import path_of
from slimgpt.config.target import count, latency, size
from slimgpt.config.yaml_file import MOST_BYTES, read_yaml
from slimgpt.errors import ConfigError

NINE = "abcdefghi"
BOMB = "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(NINE)
)  # a billion entries in 400 characters


def written(folder: Path, text: str) -> Path:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder / "recipe.yaml"


def refusal(folder: Path, text: str) -> str:
    path = written(folder, text)
    with pytest.raises(ConfigError) as refused:
        read_recipe(str(path))
    message = str(refused.value)
    assert str(path) in message and "\n" not in message and len(message) < 900
    return message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{BOMB}calibration: *i\n", "its aliases (*name) stand for more than 100,000 entries"),
        (f"{BOMB}<<: [*i, *i]\n", "its aliases (*name) stand for more than 100,000 entries"),
        ("a: &a [*a]\n", "its aliases (*name) stand for more than 100,000 entries"),
        ("ratio: 0.2\nseed: 1\nratio: 0.3\n", "'ratio' is given twice in line 3"),
        ("calibration: {a: 1, a: 2}\n", "'a' is given twice in line 1"),
        ("ratio: 0.2\nratio : 0.3\n", "'ratio' is given twice in line 2"),
        ("ratio: [0.2\n", "in line 2"),
        ("ratio: *nowhere\n", "found undefined alias 'nowhere' in line 1"),
        ("[" * 5000, "it nests too deep"),
        ("ratio: 2026-13-45\n", "month must be in 1..12"),
        ("a: !!map 5\n", "expected a mapping node, but found scalar in line 1"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        (f"seed: {'9' * 5000}\n", "digits"),
        ("# " + "x" * MOST_BYTES, "it is larger than 256 KiB"),
    ],
)
def test_yaml_that_nobody_writes(tmp_path: Path, text: str, reason: str) -> None:
    message = refusal(tmp_path, text)
    assert "is not YAML" in message and reason in message, message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("calibration: &a [[[[[[x, x]]]]]]\n", "calibration is [[[...]]], but must be str."),
        (f"calibration: [{','.join(['x'] * 10_000)}]\n", "calibration is ['x', 'x', 'x', 'x', 'x', 'x', ...], but"),
        (f"solver: {'x' * 10_000}\n", "xxx...xxx"),
        (f"{'x' * 1000}: 1\n", "unknown option 'xxx"),
        (f"samples: 0x{'f' * 5000}\n", "samples is a number of 20000 bits, but no number here is that large"),
        ("samples: 99999999999999999999\n", "but no number here is that large"),
        ("damping: .inf\n", "damping is inf, but no number here is that large"),
        ("ratio: .nan\n", "ratio is nan, but no number here is that large"),
        ("ratio: 1.0e+999\n", "ratio is inf, but no number here is that large"),
        ('calibration: "\\ud800"\n', "calibration is '\\ud800', which has half a character in it"),
    ],
)
def test_values_are_shown_in_short(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refusal(tmp_path, text)


def test_aliases_that_people_write_are_read(tmp_path: Path) -> None:
    """Negative control."""
    path = written(tmp_path, "a: &a [0.1, 0.2]\nb: *a\nc: {<<: {d: 1}, e: 2}\n")
    assert read_yaml(path) == {"a": [0.1, 0.2], "b": [0.1, 0.2], "c": {"d": 1, "e": 2}}


# --- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e999", "1e999M", "9" * 400, "nan", "inf", "-1", "1e18"])
def test_targets_beyond_all_sense(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--target-params .* is no number of parameters: write 100000000, 100M"):
        count(text)
    with pytest.raises(ConfigError, match=r"^--target-size .* is no size"):
        size(f"{text}GB")
    with pytest.raises(ConfigError, match=r"^--target-latency .* is no time"):
        latency(f"{text}ms")


@pytest.mark.parametrize("number", [0, -5, pytest.param(10**5000, id="huge")])
def test_numbers_of_parameters_beyond_all_sense(number: int) -> None:
    with pytest.raises(ConfigError, match=r"^--target-params .* is no number of parameters: write 100000000, 100M"):
        count(number)


@pytest.mark.parametrize("name", ["samples", "seqlen", "round_to", "group_size", "batch_size", "search_candidates"])
def test_counts_beyond_all_sense(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--{name.replace('_', '-')} 10{{30}} must be 1,000,000,000 or less"):
        PruneConfig("m", "o", **{name: 10**30}).check()  # type: ignore[arg-type]


# --- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x" * 5000, "nul\0", "~nobody-of-that-name/x", "half\ud800"])
def test_paths_that_no_system_has(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^OUT .* is no path \(.*\): choose another"):
        path_of(text, "OUT")


def test_paths_that_are_or_could_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    assert path_of("~/new", "OUT") == tmp_path / "new"
    assert path_of(tmp_path, "OUT") == tmp_path
    assert path_of(tmp_path / "file" / "below", "OUT") == tmp_path / "file" / "below"
