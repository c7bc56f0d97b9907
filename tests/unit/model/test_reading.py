"""The border: what libraries raise becomes one line, and a bug of ours keeps its traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import Tokenizer

from slimgpt.errors import ConfigError, ModelError, last_line, shown
from slimgpt.machine.json_files import read_json, read_object
from slimgpt.model.reading import border

MESSAGE = r"^it is broken \((?P<reason>.*)\)\. Mend it\.$"


def library(code: str) -> ModuleType:
    """A module of others."""
    module = ModuleType("library")
    exec(compile(code, "library.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('first\\nsecond.')", "second"),
        ("raise KeyError('evil')", "KeyError: 'evil'"),
        ("raise AssertionError", r"AssertionError\(\)"),
        ("raise RuntimeError('x' * 10_000)", "x{150} … x{150}"),
        ("def f(): f()\n    f()", "maximum recursion depth exceeded"),
        ("1 / 0", "division by zero"),
        ("raise ValueError('\\ud800')", r"\\ud800"),
    ],
)
def test_what_a_library_raises_is_one_line(code: str, reason: str) -> None:
    module = library(f"def read():\n    {code}")
    with pytest.raises(ModelError, match=MESSAGE.replace(".*", reason)) as refused, border("it is broken", "Mend it."):
        module.read()
    assert refused.value.__cause__ is not None


def test_so_is_what_code_in_c_raises_right_under_the_border() -> None:
    with pytest.raises(ModelError, match="is broken"), border("it is broken", "Mend it."):
        int("seven")


def test_so_is_a_panic_in_rust() -> None:
    """It is no Exception to Python."""
    panic = type("PanicException", (BaseException,), {})
    module = library("def read(error):\n    raise error")
    with pytest.raises(ModelError, match="index out of bounds"), border("it is broken", "Mend it."):
        module.read(panic("index out of bounds"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_error_passes(error: type[BaseException]) -> None:
    module = library("def read(error):\n    raise error")
    with pytest.raises(error), border("it is broken", "Mend it."):
        module.read(error)


def test_our_own_words_pass() -> None:
    with pytest.raises(ConfigError, match=r"^as it is$"), border("it is broken", "Mend it."):
        raise ConfigError("as it is")


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = library("def read():\n    raise ValueError('a bug')")
    ours.__dict__["__name__"] = "slimgpt.somewhere"
    with pytest.raises(ValueError, match="a bug"), border("it is broken", "Mend it."):
        ours.read()


def test_a_library_that_our_code_calls_is_a_library() -> None:
    inner = library("def read():\n    raise ValueError('not mine')")
    ours = library("def read(inner):\n    inner.read()")
    ours.__dict__["__name__"] = "slimgpt.somewhere"
    with pytest.raises(ModelError, match="not mine"), border("it is broken", "Mend it."):
        ours.read(inner)


def test_a_tokenizer_that_panics_is_a_library_too() -> None:
    with pytest.raises(ModelError, match="is broken"), border("it is broken", "Mend it."):
        Tokenizer.from_str("{")


# --- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ('{"a": ' * 100_000, "nests deeper than 100 levels"),
        ("[" * 150 + "]" * 150, "nests deeper than 100 levels"),
        ('{"a": "\\ud800"}', "half a character"),
        ('{"a": %s}' % ("9" * 5000), "digits"),
        ("\xff", "utf-8"),
    ],
)
def test_json_that_is_none(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "a.json")


def test_json_that_is_some(tmp_path: Path) -> None:
    """Negative control."""
    content = {"a": [1, 2.5, None, "é", {"b": json.loads("[" * 90 + "]" * 90)}]}
    (tmp_path / "a.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert read_object(tmp_path / "a.json") == content


def test_json_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="it holds a list"):
        read_object(tmp_path / "a.json")


# --- values in messages ----------------------------------------------------------------------------


def test_values_are_cut_where_they_are_long() -> None:
    bomb = 1
    for _ in range(60):
        bomb = [bomb] * 10  # type: ignore[assignment]
    assert len(shown(bomb)) < 300
    assert len(shown("x" * 10**6)) < 300
    assert shown(10**5000) == f"a number of {(10**5000).bit_length()} bits"
    assert sys.get_int_max_str_digits() < 5000
    assert shown(["a", 2.5, None]) == "['a', 2.5, None]"


def test_last_words_of_an_error_without_any() -> None:
    assert last_line(ValueError()) == "ValueError()"
