"""A disk that takes no more is known whatever library meets it, and nothing else is taken for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_llama import make_tokenizer
from writers import largest_file

from slimgpt.errors import NumericalError, OutputError
from slimgpt.machine.full_disk import full_disk, full_disk_named

LARGE = torch.zeros(100_000)


def _with_c_code(path: Path) -> None:
    with path.open("wb") as file:
        LARGE.numpy().tofile(file)


WRITES: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(bytes(10**6)),
    "safetensors": lambda path: save_file({"large": LARGE}, path),
    "tokenizers": lambda path: make_tokenizer().backend_tokenizer.save(str(path)),
    "torch": lambda path: torch.save({"large": LARGE}, path),
    "numpy": _with_c_code,
    "numpy's own format": lambda path: np.save(path, LARGE.numpy()),
}


@pytest.mark.parametrize("library", WRITES)
def test_whoever_writes_it_is_known(tmp_path: Path, library: str) -> None:
    with (
        pytest.raises(OutputError, match=rf"^{tmp_path}: .*ulimit -f.*\. Make room, and give the same command again\."),
        full_disk_named(tmp_path),
        largest_file(2_000),
    ):
        WRITES[library](tmp_path / "file")


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "quota is used up")])
def test_the_reason_is_said(number: int, words: str) -> None:
    assert words in (full_disk(OSError(number, "no matter")) or "")
    assert words in (full_disk(RuntimeError(f"it went wrong (os error {number})")) or "")


def test_an_error_that_came_of_it_is_known_too() -> None:
    with pytest.raises(OutputError, match="the disk is full"), full_disk_named(Path("here")):
        try:
            raise OSError(errno.ENOSPC, "no matter")
        except OSError as error:
            raise RuntimeError("so there is nothing to load") from error


def test_without_a_folder_the_file_is_named() -> None:
    with pytest.raises(OutputError, match=r"^cache/file: the disk is full"), full_disk_named(None):
        raise OSError(errno.ENOSPC, "no matter", os.fspath(Path("cache", "file")))
    with pytest.raises(OutputError, match=r"^the disk is full"), full_disk_named(None):
        raise OSError(errno.ENOSPC, "no matter")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        RuntimeError("the size of tensor a (5) must match"),
        ValueError("3 requested"),
        NumericalError("singular"),
    ],
)
def test_what_is_something_else_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, full_disk_named(Path("here")):
        raise error
    assert raised.value is error
