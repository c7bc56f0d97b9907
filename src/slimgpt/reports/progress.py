"""How far a command is: a line that moves on a terminal; elsewhere plain lines, at least one every half minute.

A log file, a container or CI gets lines that it can keep, and a program that asks for them JSON. What is counted is the
same in all cases.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from slimgpt.reports.loudness import entry, for_machines, note, put

EVERY_S = 25.0  # between two plain lines: half a minute, less what a busy machine is late by
GETTING_READY, WRITING = "getting ready", "writing"

Own = TypeVar("Own", bound="Headway")


class Headway:
    """Shows one piece of work after the other: its name, how much of it is done, and the time that is left.

    As a context manager it begins with getting ready, and takes its line down in the end, also after an error. Of
    several processes of a run the first one shows it.

    Args:
        console: where it is shown.
        now: seconds, by any clock.
        wait: waits for so many seconds and says whether the end has come; by itself until :meth:`close`.

    Attributes:
        before: what stands before the name of each piece of work: which part of a larger whole it is of.
    """

    def __init__(
        self, console: Console, now: Callable[[], float] = time.monotonic, wait: Callable[[float], bool] | None = None
    ) -> None:
        shown = os.environ.get("RANK", "0") == "0"
        self._console, self._as_json = console, for_machines()
        as_bar = console.is_terminal and not self._as_json
        self.before = ""
        self._bar = Progress(
            SpinnerColumn(),
            _Said(lambda task: task.description),
            BarColumn(),
            _Said(lambda task: _joined(share(task), task.fields["note"])),
            _Said(time_so_far, style="progress.elapsed"),
            _Said(time_left, style="progress.remaining"),
            console=console,
            get_time=now,
            transient=True,
            disable=not (shown and as_bar),
        )
        self._lines = _Lines(self._print, wait) if shown and not as_bar else None

    def said(self, text: str) -> None:
        """Print what people should know, to stay there."""
        note(self._console, text)

    def begin(self, name: str, total: float | None = None) -> None:
        """A piece of work begins, ``total`` long where that is known; the one before is over."""
        before = self._bar.task_ids
        self._bar.add_task(_joined(self.before, name), total=total, note="")
        for task in before:
            self._bar.remove_task(task)
        self._bar.start()
        if self._lines is not None:
            self._lines.start()
            if self._as_json:  # programs wait for stages, not for half minutes
                self._print()

    def name(self, name: str) -> None:
        """Say what of the piece is being done."""
        self._bar.update(self.task.id, description=_joined(self.before, name))

    def note(self, text: str) -> None:
        """Say something beside the share that is done."""
        self._bar.update(self.task.id, note=text)

    def advance(self, count: float = 1) -> None:
        """So much more of the piece is done."""
        self._bar.update(self.task.id, advance=count)

    def reach(self, done: float) -> None:
        """So much of the piece is done by now."""
        self._bar.update(self.task.id, completed=done)

    def hide(self) -> None:
        """Make room on a terminal for something else, until the next piece of work begins."""
        if self._bar.live.is_started:  # taking down a bar that never stood would print an empty line
            self._bar.stop()

    def close(self) -> None:
        """Take the line down, also after an error."""
        self.hide()
        if self._lines is not None:
            self._lines.stop()

    @property
    def task(self) -> Task:
        """What is known of the piece of work."""
        return self._bar.tasks[-1]

    def _print(self) -> None:
        put(self._console, entry("progress", **numbers(self.task)) if self._as_json else line(self.task))

    def __enter__(self: Own) -> Own:
        self.begin(GETTING_READY)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Stages(Headway):
    """For work in stages, whose length is known of some."""

    def stage(self, name: str, num_tokens: int | None = None) -> None:
        """The next stage."""
        self.begin(name, num_tokens)

    def tokens(self, count: int) -> None:
        """So many tokens are done."""
        self.advance(count)


def line(task: Task) -> str:
    """A piece of work in plain words: ``layer 3/30 · ffn solve · 41 % · 2:10 so far · about 3:07 left``."""
    return _joined(task.description, share(task), task.fields["note"], time_so_far(task), time_left(task))


def numbers(task: Task) -> dict[str, object]:
    """A piece of work for machines: shares from 0 to 1, seconds; None where it is not known."""
    return {
        "work": task.description,
        "share": round(task.completed / task.total, 4) if task.total else None,
        "note": task.fields["note"],
        "seconds": round(task.elapsed or 0, 1),
        "seconds_left": None if (left := seconds_left(task)) is None else round(left, 1),
    }


def share(task: Task) -> str:
    """What part is done, where the whole is known."""
    return f"{task.percentage:.0f} %" if task.total else ""


def time_so_far(task: Task) -> str:
    """Since the piece of work began."""
    return f"{_clock(task.elapsed or 0)} so far"


def time_left(task: Task) -> str:
    """In words; nothing before it can be known."""
    return "" if (left := seconds_left(task)) is None else f"about {_clock(left)} left"


def seconds_left(task: Task) -> float | None:
    """As long for each part of what is left as for each that is done; None before anything is."""
    if not task.total or not task.completed:
        return None
    return (task.elapsed or 0) * max(task.total / task.completed - 1, 0)


def _clock(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _joined(*parts: str) -> str:
    return " · ".join(filter(None, parts))


class _Said(ProgressColumn):
    """Words about a task, without markup: they hold names of users' files, which may have brackets."""

    def __init__(self, say: Callable[[Task], str], style: str = "") -> None:
        super().__init__()
        self._say = say
        self._style = style

    def render(self, task: Task) -> Text:
        return Text(self._say(task), style=self._style)


class _Lines:
    """Has a line printed again and again, by a thread of its own: work that says nothing for long is work too."""

    def __init__(self, say: Callable[[], None], wait: Callable[[float], bool] | None) -> None:
        self._say = say
        self._end = threading.Event()
        self._wait = wait or self._end.wait
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._end.clear()
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._wait(EVERY_S):
            self._say()

    def stop(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
