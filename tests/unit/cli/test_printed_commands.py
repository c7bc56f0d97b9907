"""Every command that README and documentation print is one that slimgpt takes, options and all."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from slimgpt import cli
from slimgpt.cli.commands import COMMANDS

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CALL = re.compile(r"(\S+=\S+ |torchrun .* -m )?slimgpt ")
BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def printed(page: Path) -> list[list[str]]:
    """Words of the commands in a page's shell blocks, without comments and what they are piped to."""
    lines = "".join(BLOCK.findall(page.read_text("utf-8"))).replace("\\\n", " ").splitlines()
    calls = [
        re.split(r"[|;]|&&|>", line)[0] for line in lines if re.match(r"(\S+=\S+ |torchrun .* -m )?slimgpt ", line)
    ]
    return [shlex.split(call, comments=True) for call in calls]


CASES = [(page.name, words[words.index("slimgpt") + 1 :]) for page in PAGES for words in printed(page)]


def test_there_are_some_of_each() -> None:
    assert len(CASES) > 40
    assert {words[0] for _, words in CASES} >= {"prune", "recover", "eval", "export", "study", "bench", "report"}


@pytest.mark.parametrize(("page", "words"), CASES, ids=[f"{page}: {' '.join(words)}" for page, words in CASES])
def test_it_is_taken(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # recipes are there
    if words[1:] in (["--help"], ["-h"]):
        assert words[0] in {*COMMANDS, "COMMAND"}
        return
    if words[0] not in COMMANDS or "..." in words or "…" in words:
        assert words[0] in COMMANDS, f"{page} prints a command that is none: {words[0]}"
        return
    cli._parse(words).check()


def test_a_wrong_flag_is_found() -> None:
    """Negative control."""
    with pytest.raises(SystemExit):
        cli._parse(["prune", "m", "o", "--rati", "0.2"])
