"""The documentation in a real browser: read at phone and desktop width, searched, and asking nothing of other hosts.

Screenshots are left in pytest's temporary folders.
"""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs", reason="needs the docs extra: pip install 'slimgpt[docs]'")

CONFIG = Path(__file__).parents[2] / "website" / "mkdocs.yml"
PHONE, DESKTOP = 390, 1280
PAGES = ("index.html", "the_maths.html", "api.html", "commands.html", "benchmarks/results/index.html")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing of it."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the site is served."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-f", str(CONFIG), "--site-dir", str(site)]
    subprocess.run(command, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def opened(browser: Any, address: str, page: str, width: int, scheme: str = "light") -> tuple[Any, list[str]]:
    """A page, and what it complained of or asked of others."""
    view = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    seen: list[str] = []
    view.on("console", lambda message: seen.append(message.text) if message.type == "error" else None)
    view.on("pageerror", lambda error: seen.append(str(error)))
    view.on(
        "request",
        lambda request: None if request.url.startswith((address, "blob:", "data:")) else seen.append(request.url),
    )
    view.goto(f"{address}/{page}")
    return view, seen


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_pages_fit_and_ask_nothing(browser: Any, address: str, tmp_path: Path, page: str, width: int) -> None:
    view, seen = opened(browser, address, page, width)
    view.screenshot(path=tmp_path / f"{width}.png", full_page=False)
    assert view.evaluate("document.documentElement.scrollWidth") <= width, "scrolls sideways"
    assert view.locator("h1").count() == 1
    assert not seen


def test_formulas_have_a_size(browser: Any, address: str) -> None:
    view, _ = opened(browser, address, "the_maths.html", DESKTOP)
    sizes = view.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().width)")
    assert len(sizes) > 50 and min(sizes) > 2


def test_search_finds(browser: Any, address: str) -> None:
    view, seen = opened(browser, address, "index.html", DESKTOP)
    view.keyboard.press("s")  # the theme's key for it
    view.keyboard.type("beginning-of-sequence")
    view.wait_for_selector(".md-search-result__item a")
    assert "calibration.html" in view.inner_html(".md-search-result__list") and not seen


def test_dark_mode_changes_the_paper(browser: Any, address: str) -> None:
    papers = [
        opened(browser, address, "index.html", DESKTOP, scheme)[0].evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        for scheme in ("light", "dark")
    ]
    assert papers[0] != papers[1]
