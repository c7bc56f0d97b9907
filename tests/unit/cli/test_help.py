"""Pages of help: every option in a group with its text, what it takes, examples that parse."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import slimgpt
from slimgpt import cli
from slimgpt.cli import help_page
from slimgpt.cli.commands import COMMANDS
from slimgpt.cli.help_groups import EXAMPLES, GROUPS

CONFIGS = {name: command.config for name, command in COMMANDS.items()}


def page(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", CONFIGS)
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_every_option_is_there_once_with_its_text(command: str, asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = page(capsys, command, asked)
    flowing = " ".join(shown.split())
    texts = help_page.descriptions(CONFIGS[command])
    for field in dataclasses.fields(CONFIGS[command]):
        name = field.name.replace("_", "-")
        flag = rf"(?:-\w, )?--(?:no-)?{name}\b(?!-).*"
        by_place = help_page.is_positional(CONFIGS[command], field.name)
        line = re.escape(help_page.metavar(CONFIGS[command], field.name)) if by_place else flag
        assert len(re.findall(f"^  {line}$", shown, re.MULTILINE)) == 1, field.name
        assert texts[field.name] in flowing, field.name


@pytest.mark.parametrize("command", CONFIGS)
def test_every_flag_that_is_shown_is_parsed(command: str) -> None:
    """By tyro, which reads the same dataclasses."""
    for line in EXAMPLES[command]:
        words = shlex.split(line)
        assert words[:2] == ["slimgpt", command]
        parsed = cli._parse([word for word in words[1:] if word not in ("--recipe", "recipes/slimgpt-paper.yaml")])
        assert type(parsed) is CONFIGS[command]
        parsed.check()


def test_no_group_has_what_no_command_has() -> None:
    known = {field.name for config in CONFIGS.values() for field in dataclasses.fields(config)}
    grouped = [name for names in GROUPS.values() for name in names.split()]
    assert set(grouped) <= known and len(grouped) == len(set(grouped))


@dataclasses.dataclass
class Made:
    """One of each."""

    whole: int
    """Whole."""
    share: float | None = None
    """A
    share."""
    words: tuple[str, ...] = ()
    """Words."""
    off: bool = False
    """Off."""
    on: bool = True
    """On."""
    either: int | str | None = None
    """Either."""
    switch: bool | None = None
    """Switch."""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("whole", "--whole INT"),
        ("share", "--share FLOAT"),
        ("words", "--words TEXT ..."),
        ("off", "--off"),
        ("on", "--no-on"),
        ("either", "--either TEXT"),
        ("switch", "--switch {True,False}"),
    ],
)
def test_what_an_option_takes(name: str, shown: str) -> None:
    fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(Made)}
    assert help_page.flag(Made, fields[name]) == shown
    assert help_page.descriptions(Made)["share"] == "A share."


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_all_commands_are_listed(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    shown = page(capsys, *arguments)
    assert re.findall(r"^  (\w+)$", shown, re.MULTILINE) == list(CONFIGS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert page(capsys, "--version") == f"slimgpt {slimgpt.__version__}\n"


def test_no_colour_where_none_is_wanted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in page(capsys, "drop", "--help")
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in page(capsys, "drop", "--help")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        cli.main(["--tyro-print-completion", "bash"])
    script.write_text(printed.getvalue())
    ask = f"source {script}; complete -p slimgpt; COMP_WORDS=(slimgpt prune --search-cand); COMP_CWORD=2; "
    ask += 'COMP_LINE="slimgpt prune --search-cand"; COMP_POINT=${#COMP_LINE}; '
    ask += '$(complete -p slimgpt | sed "s/.*-F \\([^ ]*\\).*/\\1/") slimgpt; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=False)
    assert "--search-candidates" in done.stdout, done.stderr
