"""The page of a study: one offline file that says what was found, what failed and what was not measured."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from study_shop import Pretended, study_config

from slimgpt.studies import StudyResult, study

pytest.importorskip("jinja2", reason="pages need the report extra")
pytest.importorskip("matplotlib", reason="pages need the report extra")

GRID = [
    {"methods": ["obs", "wanda"], "granularities": ["structured"], "ratios": [0.2, 0.4], "seeds": [0, 1],
     "tuning": ["none", "full"]},
    {"methods": ["obs"], "granularities": ["structured"], "ratios": [0.2], "quantisation": ["int8"]},
]  # fmt: skip


class Page(HTMLParser):
    """Ids, anchors and headings of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        if tag == "a" and (found.get("href") or "").startswith("#"):
            self.anchors.append((found["href"] or "")[1:])
        if tag in ("img", "script", "iframe"):
            self.sources.append(tag)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    def nll(words: str) -> float:
        return 3 + 0.2 * ("--solver" in words) + 0.1 * ("wanda" in words) - 0.1 * ("recover" in words)

    folder = tmp_path_factory.mktemp("study")
    commands = Pretended(nll, refuse="--solver wanda --ratio 0.4")
    return study(study_config(folder, {"grid": GRID, "tuning": {"full": {"full": True}}}), command=commands)


@pytest.fixture(scope="module")
def text(done: StudyResult) -> str:
    from slimgpt.reports.study import write_page

    return write_page(done).read_text(encoding="utf-8")


def test_is_one_file_that_asks_for_nothing(text: str) -> None:
    page = Page(text)
    assert not page.sources and "default-src 'none'" in text
    assert len(page.ids) == len(set(page.ids))
    assert set(page.anchors) <= set(page.ids)


def test_answers_every_claim_with_its_comparisons(done: StudyResult, text: str) -> None:
    for answer in done.answers:
        assert answer.claim in text
    page = Page(text)
    assert {"claim-1", "claim-2", "claim-3", "pareto-1-size", "pareto-1-latency", "curves-1", "speed-1"} <= set(
        page.ids
    )


def test_shows_failures_and_every_cell(done: StudyResult, text: str) -> None:
    assert "Cells that failed" in text and "there is no such luck: try again" in text
    assert text.count('scope="row">tiny, wanda structured 40%') == 4
    assert "Pruned and quantised" in text


def test_says_nothing_of_what_is_not_there(tmp_path: Path) -> None:
    from slimgpt.reports.study import write_page

    grid = [{"methods": ["obs"], "granularities": ["structured"], "ratios": [0.2]}]
    config = study_config(tmp_path, {"grid": grid, "evaluation": {"bench": False}})
    text = write_page(study(config, command=Pretended(refuse="prune"))).read_text(encoding="utf-8")
    assert "Pruned and quantised" not in text and 'id="speed"' not in text
    assert "No pruned model and its dense control were both measured." in text
