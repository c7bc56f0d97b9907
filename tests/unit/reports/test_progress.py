"""What is said of work that takes long: on a terminal and where there is none. Time is a number here; nothing waits."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from rich.console import Console

from slimgpt import cli
from slimgpt.reports import console, progress
from slimgpt.reports.progress import Headway
from slimgpt.reports.study import StudyProgress

MINUTE = 60.0


class Time:
    """A clock that moves while somebody waits, and does a piece of the work meanwhile, until none is left."""

    def __init__(self, *work: Callable[[], object]) -> None:
        self.seconds = 1000.0
        self.waits: list[float] = []
        self._work = list(work)
        self.over = threading.Event()

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> bool:
        if not self._work:
            self.over.set()
            return True
        self.waits.append(seconds)
        self.seconds += seconds
        self._work.pop(0)()
        return False


def said(
    headway: Callable[[Console, Time], Headway], *work: Callable[[Headway], object], total: float = 0
) -> list[str]:
    """The lines about some work, one a wait; none of it ends before the last."""
    shown = Console(file=io.StringIO(), width=20)
    own: list[Headway] = []
    clock = Time(*[lambda step=step: step(own[0]) for step in work])  # type: ignore[misc]
    own.append(headway(shown, clock))
    own[0].begin("layer 0/4 · embed", total or None)
    assert clock.over.wait(MINUTE)
    own[0].close()
    assert all(seconds <= 30 for seconds in clock.waits)
    return shown.file.getvalue().splitlines()  # type: ignore[attr-defined]


def plain(shown: Console, clock: Time) -> Headway:
    return Headway(shown, clock.now, clock.wait)


def test_without_a_terminal_a_line_says_stage_layer_share_and_the_time_left() -> None:
    lines = said(
        plain,
        lambda headway: None,
        lambda headway: (
            headway.name("layer 1/4 · ffn solve"),
            headway.advance(100),
            headway.note("2.1k token·layers/s"),
        ),
        lambda headway: headway.advance(300),
        lambda headway: headway.advance(400),
        total=800,
    )
    assert lines == [
        "layer 0/4 · embed · 0 % · 0:25 so far",
        "layer 1/4 · ffn solve · 12 % · 2.1k token·layers/s · 0:50 so far · about 5:50 left",
        "layer 1/4 · ffn solve · 50 % · 2.1k token·layers/s · 1:15 so far · about 1:15 left",
        "layer 1/4 · ffn solve · 100 % · 2.1k token·layers/s · 1:40 so far · about 0:00 left",
    ]


def test_work_of_unknown_length_says_how_long_it_has_taken() -> None:
    assert said(plain, *[lambda headway: None] * 150)[-1] == "layer 0/4 · embed · 1:02:30 so far"


def test_the_next_piece_of_work_starts_anew() -> None:
    lines = said(plain, lambda headway: headway.advance(9), lambda headway: headway.begin("[red]w.gguf", 3), total=10)
    assert lines[1] == "[red]w.gguf · 0 % · 0:00 so far", "brackets are no markup"


def test_of_several_processes_one_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    shown = Console(file=io.StringIO())
    with Headway(shown, wait=lambda seconds: pytest.fail("nobody is to wait")) as headway:
        headway.begin("work", 2)
        headway.advance()
    assert shown.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_terminal_shows_the_same_and_is_clean_afterwards() -> None:
    shown = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Headway(shown) as headway:
        headway.begin("layer 3/4", 10)
        headway.reach(5)
        headway.note("loss 2.1")
        headway._bar.refresh()
    written = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "layer 3/4" in written
    assert "50 % · loss 2.1" in written
    assert "left" in written
    assert written.endswith("\x1b[1A\x1b[2K"), "the line is taken away"


def test_the_thread_ends_with_the_work() -> None:
    with Headway(Console(file=io.StringIO())) as headway:
        headway.begin("work")
        assert any(thread.name == "progress" for thread in threading.enumerate())
    assert not any(thread.name == "progress" for thread in threading.enumerate())


# --- every command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save_model(tmp_path_factory.mktemp("progress") / "model")


TEXT = ("--calibration", "builtin", "--samples", "8", "--seqlen", "32", "--device", "cpu")
EVALUATED = ("--text", "{text}", "--seqlen", "32", "--max-tokens", "64", "--device", "cpu")
TRAINING = ("--full", "--seqlen", "32", "--max-steps", "2", "--warmup", "1", "--batch-size", "2", "--keep", "last")
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "prune": (
        ["prune", "{model}", "{out}", "--ratio", "0.2", "--round-to", "1", *TEXT],
        [
            "getting ready",
            "layer 3/3 · search, forward",
            "layer 1/3 · search, backward",
            "layer 3/3 · advance",
            "writing",
        ],
    ),
    "prune, ranked": (
        ["prune", "{model}", "{out}", "--ratio", "0.2", "--round-to", "1", "--solver", "flap", *TEXT],
        ["layer 2/3 · ffn ranking", "layer 3/3 · ffn solve"],
    ),
    "sparsify": (
        ["sparsify", "{model}", "{out}", "--sparsity", "0.5", *TEXT],
        ["getting ready", "sparsegpt", "writing"],
    ),
    "drop": (["drop", "{model}", "{out}", "--layers", "1", *TEXT], ["getting ready", "measuring layers", "writing"]),
    "recover": (
        ["recover", "{model}", "{out}", "--data", "{rows}", "--teacher", "{model}", *TRAINING],
        ["getting ready", "teacher reads", "training", "writing"],
    ),
    "eval": (["eval", "{model}", *EVALUATED], ["getting ready", "loading the model", "perplexity, text@32"]),
    "inspect": (["inspect", "{model}"], ["reading the model"]),
    "generate": (["generate", "{model}", "a", "--device", "cpu"], ["reading the model", "generating"]),
    "export": (["export", "{model}", "{out}", "--format", "padded"], ["exporting, padded"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_takes_long_has_lines(
    command: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a line would say, whenever it came: it is looked at each time that something changes."""
    lines: list[str] = []
    for change in ("begin", "name", "advance", "reach"):
        monkeypatch.setattr(Headway, change, _noting(getattr(Headway, change), lines))
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join(f"Paragraph {number}: some words to read, and some more of them." for number in range(99))
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "Some words to learn, and some more of them."}\n' * 9)
    arguments, expected = COMMANDS[command]
    names = {"{model}": str(model), "{out}": str(tmp_path / "out"), "{text}": str(text), "{rows}": str(rows)}
    assert cli.main([names.get(argument, argument) for argument in arguments]) == 0, capsys.readouterr().err
    for stage in expected:
        assert any(line.startswith(stage) for line in lines), stage
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_a_study_counts_the_cells_that_this_run_runs() -> None:
    shown = Console(file=io.StringIO(), width=200)
    with StudyProgress(shown) as study:
        study.planned(num_cells=5, num_finished=1)
        study.advance()
        assert progress.line(study.task).startswith("cells, of 5 · 25 % · ")


def _noting(change: Any, lines: list[str]) -> Any:
    def changed(self: Headway, *args: Any, **options: Any) -> None:
        change(self, *args, **options)
        lines.append(progress.line(self.task))

    return changed


def test_a_log_gets_the_lines(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    assert not console.err.is_terminal
    assert cli.main(["drop", str(model), str(tmp_path / "out"), "--layers", "1", *TEXT]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("getting ready · 0:00 so far")
