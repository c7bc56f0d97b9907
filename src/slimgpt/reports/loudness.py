"""How much is said beside the answer: plans and progress for people, as JSON lines for machines, or nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

from rich.console import Console

out = Console(markup=False)  # answers; what is printed holds names of users' files, which may have brackets
plans = Console(markup=False)  # what is going to be done
err = Console(stderr=True)  # how far it is


class Loudness(Enum):
    """For whom a command talks while it works."""

    PEOPLE = "people"
    MACHINES = "machines"
    NOBODY = "nobody"


_loudness: ContextVar[Loudness] = ContextVar("loudness", default=Loudness.PEOPLE)


def for_machines() -> bool:
    """Whether each line on stderr is a JSON object."""
    return _loudness.get() is Loudness.MACHINES


@contextmanager
def talking_to(whom: Loudness) -> Iterator[None]:
    """Inside, commands talk to those. Answers are printed whoever listens, and errors too."""
    before, quiet = _loudness.set(whom), (plans.quiet, err.quiet)
    plans.quiet = whom is not Loudness.PEOPLE
    err.quiet = whom is Loudness.NOBODY
    try:
        yield
    finally:
        _loudness.reset(before)
        plans.quiet, err.quiet = quiet


def entry(kind: str, **values: object) -> str:
    """A line for machines: an object with ``kind``, ``time`` (seconds since 1970) and what belongs to its kind."""
    return json.dumps({"kind": kind, "time": round(time.time(), 3), **values}, ensure_ascii=False)


def put(console: Console, text: str) -> None:
    """Print a line as it is, whatever the width and the brackets in it."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def note(console: Console, text: str) -> None:
    """What people should know, to stay there."""
    put(console, entry("note", text=text) if for_machines() else text)
