"""Files as an enemy, a bad disk or a hasty hand would leave them, and what may come of reading them.

Every mutation comes from a seed, so the number of a test is all it takes to see a case again. ``make fuzz`` makes
thousands of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slimgpt import cli
from slimgpt.errors import SlimGPTError

NUMBER = int(os.environ.get("SLIMGPT_FUZZ", "120"))
SEEDS = pytest.mark.parametrize("seed", range(NUMBER))
SECONDS = 120  # a case takes a fraction of one, on a machine with nothing else to do: what takes this long hangs
LONGEST = 1000  # characters of a message that can be read

VALUES: Sequence[Any] = (
    *(None, True, False, "", " ", "evil", "nobody/kernels", "../up", "/", "nul\0", "\ud800", "é" * 3, "x" * 10_000),
    *(0, -1, 1, 2, 3, 7, 8, 10**5, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, -0.5, 1.5, 4.0, 1e308, 1e-320, float("inf"), float("-inf"), float("nan")),
    *([], {}, [[]], [None], [0], [-1, 2], {"": ""}, {"a": 5}, {"0": {}}, {"__float__": "NaN"}, ["full_attention"]),
)

RARELY = 0.03 if NUMBER <= 200 else 0.2  # of the cases go through what takes long

Harm = Mapping[str, Sequence[Any]]
"""Names that do harm where they are heeded -> values of their own; any value where there are none."""


# --- mutations -------------------------------------------------------------------------------------


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    inside: Any = []
    for _ in range(levels):
        inside = [inside]
    return inside


def mutated(content: Any, choice: random.Random, harm: Harm | None = None) -> Any:
    """JSON content with one to three places changed."""
    for _ in range(choice.choice((1, 1, 1, 2, 3))):
        content = _mutated_once(json.loads(json.dumps(content)), choice, harm or {})
    return content


def _mutated_once(content: Any, choice: random.Random, harm: Harm) -> Any:
    spots = list(_spots(content))
    if not spots or choice.random() < 0.02:
        return _value(content, choice)
    holder, key = choice.choice(spots)
    action = choice.random()
    if action < 0.6:
        holder[key] = _value(content, choice)
    elif action < 0.7:
        del holder[key]
    elif action < 0.75:
        holder[key] = str(holder[key])
    elif action < 0.8:
        holder[key] = [holder[key]]
    elif isinstance(content, dict):
        name = choice.choice((*harm, str(key)))
        values = harm.get(name, ())
        content[name] = choice.choice(values) if values and choice.random() < 0.7 else _value(content, choice)
    return content


def _spots(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside that can be changed."""
    keys = content.keys() if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _spots(content[key])


def _value(content: Any, choice: random.Random) -> Any:
    """Something that should not be there: from the list, from elsewhere in the file, or too deep."""
    kind = choice.random()
    if kind < 0.02:
        return deep(choice.choice((100, 500)))
    spots = list(_spots(content))
    if kind < 0.2 and spots:
        holder, key = choice.choice(spots)
        return json.loads(json.dumps(holder[key]))
    return choice.choice(VALUES)


def as_json(content: Any, choice: random.Random) -> bytes:
    """JSON, now and then not quite, or far too deep for any reader."""
    kind = choice.random()
    if kind < 0.02:
        return b'{"a":' * 100_000
    text = json.dumps(content).encode()
    return damaged(text, choice) if kind < 0.2 else text


def damaged(data: bytes, choice: random.Random) -> bytes:
    """Bytes with a few of them wrong, missing or too many."""
    for _ in range(choice.choice((1, 1, 2, 5))):
        data = _damaged_once(data, choice)
    return data


def _damaged_once(data: bytes, choice: random.Random) -> bytes:
    at = choice.randrange(len(data) + 1)
    size = choice.choice((1, 1, 4, 8, 100))
    inserts = (b"\0" * size, b"\xff" * size, choice.randbytes(size), b"[" * size, data[at : at + size])
    rest = choice.choice((at, at + size))  # between what is there, or over it
    kind = choice.random()
    if kind < 0.1:
        return data[:at]
    if kind < 0.2:
        return data[:at] + data[at + size :]
    if kind < 0.6 and data:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ 1 << choice.randrange(8)]) + data[at + 1 :]
    return data[:at] + choice.choice(inserts) + data[rest:]


def write(path: Path, data: bytes) -> None:
    """A file of its own, also where there was a second name of another."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def copied(folder: Path, place: Path) -> Path:
    """A copy of a model's folder whose weights are second names."""
    place.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (os.link if file.suffix == ".safetensors" else _copy)(file, place / file.name)
    return place


def _copy(file: Path, place: Path) -> None:
    place.write_bytes(file.read_bytes())


# --- what may come of it ---------------------------------------------------------------------------

FORBIDDEN = {"socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system", "os.exec"}
FORBIDDEN |= {"pickle.find_class"}
FOREIGN = ("transformers_modules", "evil.py")  # where code of a model would come from

_tried: list[str] | None = None  # what was forbidden and tried, inside `guarded`


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _tried is None:
        return
    foreign = event == "exec" and any(part in str(getattr(args[0], "co_filename", "")) for part in FOREIGN)
    harmless = event == "subprocess.Popen" and args[0] == "uname"  # by Python's own platform module
    if (event in FORBIDDEN and not harmless) or foreign:
        _tried.append(f"{event} {args!r:.200}")
        raise PermissionError(f"a file made us do {event}")


sys.addaudithook(_watch)  # for good: Python has no way to take one away


class Hang(BaseException):
    """Nobody catches this."""


@contextmanager
def guarded() -> Iterator[None]:
    """Inside nothing hangs, connects, starts a program, unpickles or runs a model's code: a try fails the test even
    where it is caught.
    """
    global _tried
    before = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    _tried = tried = []
    try:
        yield
    finally:
        _tried = None
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        assert not tried, tried


def _hang(signum: int, frame: Any) -> None:
    raise Hang


def outcome(read: Callable[[], Any]) -> str | None:
    """Call ``read`` under guard: None where it succeeds, its message where it refuses in our words."""
    try:
        with guarded():
            read()
    except SlimGPTError as error:
        check_message(str(error))
        return str(error)
    return None


def outcome_of(*arguments: object) -> str | None:
    """The same of a command: status 0, or status 2 with one line on stderr."""
    said = io.StringIO()
    with guarded(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main([str(argument) for argument in arguments])
    if status == 0:
        return None
    assert status == 2
    lines = [line for line in said.getvalue().splitlines() if line.startswith("slimgpt: ")]
    assert len(lines) == 1, said.getvalue()
    check_message(lines[0])
    return lines[0].removeprefix("slimgpt: error: ")


def check_message(message: str) -> None:
    """One line that can be printed and read."""
    assert "\n" not in message, message
    assert len(message) < LONGEST, message
    message.encode()
