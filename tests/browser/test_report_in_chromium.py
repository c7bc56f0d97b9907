"""The page in a real browser: it asks for nothing, complains of nothing, and every figure can be seen and read.

Screenshots are left in pytest's temporary folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import run_folders

from slimgpt.config import ReportConfig
from slimgpt.reports.page import report

PHONE, SMALLEST, DESKTOP = 390, 360, 1280
WHITE, BLACK = "rgb(252, 251, 248)", "rgb(23, 22, 20)"  # the paper, in light and in dark

Open = Callable[..., Any]

PICTURES = """() => [...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const drawn = [...svg.querySelectorAll("path, use")].filter(e => {
    const part = e.getBoundingClientRect();
    return part.width + part.height > 0 && getComputedStyle(e).fill + getComputedStyle(e).stroke != "nonenone";
  }).length;
  const texts = [...svg.querySelectorAll("text")].map(e => e.getBoundingClientRect());
  return {
    name: svg.closest("figure").id, width: box.width, height: box.height, left: box.left, right: box.right, drawn,
    textHeight: Math.min(...texts.filter(t => t.width > t.height).map(t => t.height)),
    spill: Math.max(...texts.map(t => Math.max(box.left - t.left, t.right - box.right, box.top - t.top,
                                              t.bottom - box.bottom))),
  };
})"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with everything, and one of a run of which nothing was measured."""
    place = tmp_path_factory.mktemp("chromium")
    runs = tuple(map(str, run_folders.save_runs(place)))
    bare = run_folders.save(place / "bare", slimgpt=run_folders.record(0.3))
    dense = str(run_folders.save_dense(place / "dense"))
    return {
        "full": report(ReportConfig(runs, str(place / "full.html"), dense=dense)).page,
        "bare": report(ReportConfig((str(bare),), str(place / "bare.html"))).page,
    }


@pytest.fixture
def shown(browser: Any, pages: dict[str, Path]) -> Iterator[Open]:
    """Opens a page offline; whatever it asks for or complains of is an error."""
    contexts: list[Any] = []

    def open_page(which: str, width: int, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.seen = []
        page.on("console", lambda message: page.seen.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: page.seen.append(f"error: {error}"))
        page.on("request", lambda request: page.seen.append(f"request: {request.url[:200]}"))
        page.goto(pages[which].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("which", ["full", "bare"])
@pytest.mark.parametrize(
    ("width", "scheme"),
    [(SMALLEST, "light"), (PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")],
)
def test_every_figure_is_drawn_and_nothing_is_asked_for(
    shown: Open, pages: dict[str, Path], tmp_path: Path, which: str, width: int, scheme: str
) -> None:
    page = shown(which, width, color_scheme=scheme)
    page.screenshot(path=tmp_path / f"{which}-{width}-{scheme}.png", full_page=True)
    assert page.seen == [f"request: {pages[which].as_uri()}"]
    assert page.evaluate("document.documentElement.scrollWidth") == width, "scrolls sideways"
    pictures = page.evaluate(PICTURES)
    assert len(pictures) == (17 if which == "full" else 4)
    for picture in pictures:
        assert picture["width"] > 250, picture
        assert picture["height"] > 80, picture
        assert picture["drawn"] > 5, picture
        assert picture["left"] >= 0, picture
        assert picture["right"] <= width, picture
        assert picture["textHeight"] >= 9, picture
        assert picture["spill"] <= 2, picture
    assert (tmp_path / f"{which}-{width}-{scheme}.png").stat().st_size > 10_000


def test_dark_mode_changes_paper_and_ink(shown: Open) -> None:
    colours = [
        shown("bare", DESKTOP, color_scheme=scheme).evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('figure svg text')).fill]"
        )
        for scheme in ("light", "dark")
    ]
    assert [paper for paper, _ in colours] == [WHITE, BLACK]
    assert colours[0][1] != colours[1][1]


def test_it_can_be_read_with_a_keyboard(shown: Open) -> None:
    """Tab shows the way past the navigation, and Enter opens the numbers behind a figure."""
    page = shown("bare", DESKTOP)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the summary"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    assert not page.evaluate("document.activeElement.parentElement.open")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")
    assert page.evaluate("document.activeElement.parentElement.querySelector('table').offsetHeight") > 0


def test_without_scripts_it_is_the_same(browser: Any, shown: Open, tmp_path: Path) -> None:
    first, second = (
        shown("full", DESKTOP, java_script_enabled=enabled).screenshot(full_page=True) for enabled in (True, False)
    )
    assert first == second


def test_on_paper_it_has_no_navigation_and_all_settings(shown: Open, tmp_path: Path) -> None:
    page = shown("full", 800, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == WHITE
    assert page.evaluate("document.querySelector('.settings table').getBoundingClientRect().height") > 50
    page.pdf(path=tmp_path / "full.pdf")
    assert (tmp_path / "full.pdf").read_bytes().startswith(b"%PDF")


def test_requests_and_complaints_would_be_noticed(shown: Open, pages: dict[str, Path]) -> None:
    """Negative control: a script that is held back, an image that is asked for, a figure without a size."""
    spoilt = pages["bare"].with_name("spoilt.html")
    html = pages["bare"].read_text(encoding="utf-8").replace("<main>", "<main><script>1</script>", 1)
    pages["spoilt"] = spoilt
    spoilt.write_text(html.replace("figure svg {", "figure svg { max-width: 0;", 1), encoding="utf-8")
    page = shown("spoilt", DESKTOP)
    assert any(seen.startswith("console: ") and "Content Security Policy" in seen for seen in page.seen)
    assert {picture["width"] for picture in page.evaluate(PICTURES)} == {0}
    spoilt.write_text(html.replace("default-src 'none'", "default-src *").replace("<main>", "<main><img src='x.png'>"))
    assert any("x.png" in seen for seen in shown("spoilt", DESKTOP).seen)
