"""What a command says must never stop it: a terminal of another alphabet, a reader that went away, a closed stream."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

NAMES = ("stdout", "stderr")


class _Patient(io.FileIO):
    """The file below a stream. What nobody reads any more is swallowed; what else went wrong is remembered."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or let it be from now on."""
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.failure = error
            _point_at_nothing(self.fileno())
            return len(memoryview(data))


@contextmanager
def patient_streams() -> Iterator[None]:
    """Inside both streams take every character, and go on when their reader is gone."""
    _fill_closed()
    before = {name: getattr(sys, name) for name in NAMES}
    for name, stream in before.items():
        setattr(sys, name, _patient(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            flush(getattr(sys, name))
            setattr(sys, name, stream)


def lost() -> OSError | None:
    """What kept results from going where stdout leads, such as a full disk."""
    flush(sys.stdout)
    below = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return below.failure if isinstance(below, _Patient) else None


def flush(stream: TextIO) -> None:
    """Bring out what a stream still holds."""
    if not stream.closed:
        stream.flush()


def _patient(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed before Python began
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper) or not _has_file(stream):  # somebody else's, as in tests and notebooks
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Patient(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _has_file(stream: TextIO) -> bool:
    try:
        return stream.fileno() >= 0
    except OSError:
        return False


def _fill_closed() -> None:
    """Let the numbers 0 to 2 lead somewhere, if only to nowhere: else the first file that is opened gets one of them,
    and in it what libraries say.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)


def _point_at_nothing(number: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
