"""The documentation as a site: built strictly, complete, and asking nothing of other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import slimgpt
from slimgpt.cli.commands import COMMANDS

pytest.importorskip("mkdocs", reason="needs the docs extra: pip install 'slimgpt[docs]'")

ROOT = Path(__file__).parents[2]
ASKED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["']?(?P<url>[^"'\s>]+)""")
KEPT = re.compile(r"\brel=[\"']?(?:canonical|prev|next|alternate)\b")


def build(into: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(ROOT / "website" / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [*command, "--site-dir", str(into), *options], capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder, "--strict", "--quiet")
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()
    for page in (ROOT / "benchmarks" / "results").glob("*.md"):
        assert (site / "benchmarks" / "results" / f"{page.stem}.html").is_file()


def test_nothing_is_asked_of_other_hosts(site: Path) -> None:
    asked = {
        match["url"]
        for page in site.rglob("*.html")
        for match in ASKED.finditer(page.read_text("utf-8"))
        if not KEPT.search(match[0])
    }
    assert asked and not {url for url in asked if re.match(r"(https?:)?//", url)}


def test_commands_and_python_are_made_from_the_code(site: Path) -> None:
    commands, python = ((site / page).read_text("utf-8") for page in ("commands.html", "api.html"))
    for name in COMMANDS:
        assert f"slimgpt {name}" in commands
    assert "--search-candidates" in commands
    for name in set(slimgpt.__all__) - {"__version__"}:
        assert re.search(rf'id="slimgpt\.[\w.]*\b{name}"', python), f"docs/api.md lacks {name}"
    assert re.search(r"PruneConfig\.ratio\b", python)  # a field that PruneConfig inherits


def test_measurements_have_their_plots(site: Path) -> None:
    page = site / "benchmarks" / "results" / "index.html"
    shown = set(re.findall(r'<img[^>]*src="([^"]+)"', page.read_text("utf-8")))
    assert any(name.endswith("quality.svg") for name in shown) and any(name.endswith(".png") for name in shown)
    assert all((page.parent / name).is_file() for name in shown)


def test_formulas_are_drawn_by_the_browser_itself(site: Path) -> None:
    page = (site / "the_maths.html").read_text("utf-8")
    assert page.count("<math") > 50 and "arithmatex" not in page and "\\(" not in page


def test_a_wrong_link_is_found(tmp_path: Path) -> None:
    """Negative control of the strict build."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](nowhere.md)")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\nstrict: true\n")
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0 and "nowhere.md" in done.stderr
