"""What the site has beside docs/: measurements, the reference of commands, and formulas as MathML.

All of it is made while mkdocs builds, so that nothing is written twice. MathML is drawn by browsers themselves: no
script, no font and no request.
"""

from __future__ import annotations

import contextlib
import html
import io
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = Path("benchmarks/results")
COPIED = {".md", ".png", ".csv", ".jsonl", ".json", ".py"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
UP = re.compile(r"\]\((?:\.\./)+(?P<path>[^)#\s]+)")
INTRODUCTION = """# Measurements

Every figure that these pages quote was made by a script of `benchmarks/`, and lies here with its date and hardware.

![Perplexity against parameters](../../images/quality.svg)"""
MOST_PLOTS = 2  # of one page, on the page that lists them
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: Any) -> Files:
    """Add benchmarks and their results as they lie, a page that lists them, and the commands."""
    for path in sorted((ROOT / "benchmarks").rglob("*")):
        if path.suffix in COPIED:
            files.append(_generated(config, path.relative_to(ROOT).as_posix(), path.read_bytes()))
    files.append(_generated(config, f"{RESULTS.as_posix()}/index.md", _results().encode()))
    files.append(_generated(config, "commands.md", _commands().encode()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/ for a file of the project lead to its copy in the site, where there is one."""
    here = Path(page.file.src_uri).parent

    def mended(match: re.Match[str]) -> str:
        path = match["path"].removeprefix("docs/").rstrip("/")
        target = path if files.get_file_from_path(path) else f"{path}/index.md"
        return f"]({os.path.relpath(target, here)}" if files.get_file_from_path(target) else match[0]

    return UP.sub(mended, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML."""
    return FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    formula = html.unescape(match[3]).strip()
    if match[2] == "[":
        return f'<div class="formula">{convert(formula, display="block")}</div>'
    return convert(formula)


def _generated(config: Any, path: str, content: bytes) -> File:
    return File.generated(config, path, content=content)


def _results() -> str:
    """What was measured, each page beside the script that measured it, and the first plots of those that have some."""
    listed, drawn = [], []
    for page in sorted((ROOT / RESULTS).glob("*.md")):
        title = page.read_text("utf-8").splitlines()[0].lstrip("# ")
        listed.append(f"- [{title}]({page.name})")
        plots = sorted(page.parent.glob(f"{page.stem}*.png"))[:MOST_PLOTS]
        drawn += [f"## [{title}]({page.name})", *(f"![{title}]({plot.name})" for plot in plots)] if plots else []
    return "\n\n".join([INTRODUCTION, "\n".join(listed), *drawn, ""])


def _commands() -> str:
    """The help of every command, as the command line prints it."""
    from slimgpt import cli
    from slimgpt.cli.commands import COMMANDS

    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}
    parts = ["# Commands", "", "As `slimgpt COMMAND --help` prints them.", ""]
    for name in COMMANDS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([name, "--help"])
        parts += [f"## slimgpt {name}", "", "```text", ESCAPES.sub("", printed.getvalue()).strip(), "```", ""]
    return "\n".join(parts)
