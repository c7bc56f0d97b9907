"""The page without a browser: what it says, that it can be read in other ways than by eye, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import run_folders
import tiny_llama

from slimgpt import cli
from slimgpt.config import PruneConfig, ReportConfig
from slimgpt.output.card import model_card
from slimgpt.reports import palette
from slimgpt.reports.charts.tradeoff import pareto_front
from slimgpt.reports.page import report
from slimgpt.reports.results import Interval, quality
from slimgpt.reports.runs import read_runs, short_names
from slimgpt.reports.subjects import subjects
from slimgpt.reports.summary import quality_tile, speed_tile

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements in order with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += " ".join(data.split()) + " "

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    run_folders.save_runs(place)
    run_folders.save_dense(place / "dense")
    run_folders.save(place / "bare", slimgpt=run_folders.record(0.3))
    return place


def made(out: Path, *runs: Path, **options: Any) -> Page:
    written = report(ReportConfig(tuple(map(str, runs)), str(out), **options))
    return Page(written.page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(place: Path) -> Page:
    runs = [place / name for name in ("pruned-20", "pruned-25", "pruned-50")]
    return made(place / "full.html", *runs, dense=str(place / "dense"))


@pytest.fixture(scope="module")
def bare(place: Path) -> Page:
    return made(place / "bare.html", place / "bare")


# --- a page for everybody --------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["full", "bare"])
def test_ids_are_unique_and_references_lead_somewhere(which: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(which)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
        for name in ("href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target in ("#", "data:,") or target.removeprefix("#") in ids


@pytest.mark.parametrize("which", ["full", "bare"])
def test_headings_skip_no_level(which: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(which)
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_figure_has_a_name_a_reading_and_a_table(full: Page) -> None:
    figures, drawings = full.all("figure"), full.all("svg")
    assert len(figures) == len(drawings) == 17
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert drawing["aria-labelledby"]
    assert len([d for d in full.all("details") if d.get("class") == "figure-table"]) == len(figures)
    assert all(cell.get("scope") in ("row", "col") for cell in full.all("th"))
    assert all(region.get("aria-label") for region in full.all("div") if region.get("role") == "region")


def test_the_page_is_alone(full: Page, place: Path) -> None:
    """Nothing that runs, nothing that loads, and a policy that says so to the browser."""
    assert not full.all("script", "img", "iframe", "object", "embed", "form")
    assert not [name for _, attributes in full.elements for name in attributes if name.startswith("on")]
    policy = next(a["content"] for a in full.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    style = (place / "full.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert all((a.get(name) or "#").startswith(("#", "data:,")) for _, a in full.elements for name in ("src", "href"))


def test_the_same_files_give_the_same_bytes(full: Page, place: Path, tmp_path: Path) -> None:
    """Also in another process, whose sets and dictionaries hash differently."""
    program = "import sys; from slimgpt import cli; sys.exit(cli.main(sys.argv[1:]))"
    runs = [str(place / name) for name in ("pruned-20", "pruned-25", "pruned-50")]
    out = tmp_path / "again.html"
    subprocess.run(
        [sys.executable, "-c", program, "report", *runs, "--dense", str(place / "dense"), "--out", str(out)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
    )
    assert out.read_bytes() == (place / "full.html").read_bytes()


def test_colours_stand_out_in_light_and_dark() -> None:
    """WCAG 2: 4.5 for text, 3 for what is drawn."""
    assert palette.LIGHT.keys() == palette.DARK.keys()
    assert len(set(palette.LIGHT.values())) == len(palette.LIGHT)
    for colours in (palette.LIGHT, palette.DARK):
        for ground in ("paper", "panel"):
            for role in ("ink", "muted"):
                assert contrast(colours[role], colours[ground]) >= 4.5
        for role in (name for name in colours if name.startswith("series")):
            assert contrast(colours[role], colours["paper"]) >= 3


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_no_two_runs_look_alike_without_colour() -> None:
    looks = [(palette.style(i).marker, str(palette.style(i).dash)) for i in range(5)]
    assert len({marker for marker, _ in looks}) == len({dash for _, dash in looks}) == 5
    assert len({palette.style(index) for index in range(15)}) == 15


def test_colours_become_variables_on_the_page(place: Path, full: Page) -> None:
    html = (place / "full.html").read_text(encoding="utf-8")
    body = html.split("<body>")[1]
    assert "var(--series-1)" in body
    assert not [colour for colour in palette.LIGHT.values() if colour in body]
    assert "#000000" not in body


# --- what it says ----------------------------------------------------------------------------------


def test_the_summary_comes_first(full: Page) -> None:
    assert full.text.index("Smaller by") < full.text.index("What quality costs") < full.text.index("Layer by layer")
    assert "134.5 million → 107.6 million parameters" in full.text
    assert "1.18 times the tokens/s while generating (1.16 to 1.20, quartiles of paired repeats)" in full.text
    assert f"perplexity, wiki.test@2048: {math.exp(3.2):,.2f} → {math.exp(3.7):,.2f}" in full.text
    assert "mean accuracy, %: 50.0 → 45.0, −5.0 points" in full.text
    assert "points (95 % intervals overlap)" not in full.text
    assert "pruned-50, trained after pruning" in full.text


def test_everything_measured_is_there(full: Page) -> None:
    for word in ("boolq", "shuffled words", "The harbour was built in", "Great Northern Railway", "rank", "2.13.0"):
        assert word in full.text
    assert "not measured" not in full.text
    assert "To measure:" not in full.text


def test_what_is_missing_is_said_with_its_command(bare: Page, place: Path) -> None:
    assert bare.text.count("not measured") >= 4
    folder = place / "bare"
    assert f"slimgpt eval {folder} --text TEXT --suite slimgpt --record" in bare.text
    assert f"slimgpt bench models/SmolLM2-135M-Instruct {folder} --record" in bare.text
    assert f"slimgpt eval {folder} --text TEXT --against models/SmolLM2-135M-Instruct --record" in bare.text
    assert "mkdir -p dense slimgpt eval models/SmolLM2-135M-Instruct --text TEXT" in bare.text
    assert f"--json dense/eval.json slimgpt report {folder} --dense dense" in bare.text
    assert len(bare.all("svg")) == 4


def test_a_path_in_a_command_can_be_pasted(tmp_path: Path) -> None:
    folder = run_folders.save(tmp_path / "my run; ls", slimgpt=run_folders.record())
    assert f"slimgpt bench models/SmolLM2-135M-Instruct '{folder}' --record" in made(tmp_path / "r.html", folder).text


def test_what_users_wrote_stays_text(tmp_path: Path) -> None:
    """An attack in a sample, an option and a folder's name, and dollars that mean no formula."""
    attack = "</p><script>alert(1)</script><img src=x onerror=alert(2)>"
    comparison = run_folders.compare_json(samples=[{"prompt": attack, "model": attack, "against": attack}])
    record = run_folders.record(source=attack, options={"solver": attack})
    name = "$x_1$<b onclick=alert(3)>&quot;"
    folder = run_folders.save(tmp_path / name, slimgpt=record, compare=comparison, eval=run_folders.eval_json())
    other = run_folders.save(tmp_path / "{{ 7 * 7 }}", slimgpt=run_folders.record(0.5), compare=comparison)
    page = made(tmp_path / "r.html", folder, other)
    assert not page.all("script", "img", "b")
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert page.text.count(attack) >= 3
    assert name in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_letters_that_the_plotting_library_lacks_bring_no_warning(tmp_path: Path, recwarn: Any) -> None:
    folders = [run_folders.save(tmp_path / name, slimgpt=run_folders.record()) for name in ("裁剪", "נחתך")]
    assert "裁剪" in made(tmp_path / "r.html", *folders).text
    assert not recwarn.list


def test_perplexities_of_different_tokenizers_are_not_compared(place: Path, tmp_path: Path) -> None:
    own = run_folders.save_runs(tmp_path, (0.2, 0.4))
    path = own[1] / "measured" / "eval.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer": "another"}))
    page = made(tmp_path / "r.html", *own, dense=str(place / "dense"))
    assert "different tokenizers" in page.text
    assert "bits per byte, wiki.test@2048" in page.text
    assert "perplexity" not in page.text.replace("held-out perplexity", "").lower().replace(
        "perplexity is per token, so it cannot be compared between them", ""
    ).replace("perplexity on rows kept out of the training text", "")


def test_speeds_of_different_machines_are_not_compared(tmp_path: Path) -> None:
    runs = run_folders.save_runs(tmp_path, (0.2, 0.4))
    path = runs[1] / "measured" / "bench.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "device": "NVIDIA H100"}))
    page = made(tmp_path / "r.html", *runs)
    assert "on different devices or in different ways" in page.text
    assert "Latency is not shown: it takes two models measured on one device" in page.text
    assert not [figure for figure in page.all("figure") if str(figure["id"]).startswith("speed")]


# --- summary ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speed", "label", "value"),
    [(1.25, "Faster by", "25%"), (0.8, "Slower by", "20%"), (1.01, "Speed, no clear change", "+1%")],
)
def test_speed_in_words(tmp_path: Path, speed: float, label: str, value: str) -> None:
    record = run_folders.record()
    bench = run_folders.bench_json(
        {"d": (run_folders.DENSE_PARAMETERS, 1.0), "p": (record["parameters"]["after"], speed)}
    )
    run, dense = one_run(run_folders.save(tmp_path / "p", slimgpt=record, bench=bench))
    tile = speed_tile(run, dense.speed)
    assert (tile.label, tile.value) == (label, value)


def test_speeds_measured_apart_say_so(tmp_path: Path) -> None:
    record = run_folders.record()
    after = record["parameters"]["after"]
    folder = run_folders.save(tmp_path / "p", slimgpt=record, bench=run_folders.bench_json({"p": (after, 1.0)}))
    dense = tmp_path / "dense"
    dense.mkdir()
    alone = run_folders.bench_json({"d": (run_folders.DENSE_PARAMETERS, 0.8)})
    (dense / "bench.json").write_text(json.dumps(alone))
    run, found = one_run(folder, dense=str(dense))
    tile = speed_tile(run, found.speed)
    assert (tile.label, tile.value) == ("Faster by", "25%")
    assert "not measured in turns" in " ".join(tile.details)
    (dense / "bench.json").write_text(json.dumps({**alone, "device": "NVIDIA H100"}))
    run, found = one_run(folder, dense=str(dense))
    tile = speed_tile(run, found.speed)
    assert tile.value is None
    assert "NVIDIA H100" in tile.details[0]


@pytest.mark.parametrize(
    ("harm", "label", "value"),
    [
        (0.2, "Worse by", f"{math.exp(0.2) - 1:.0%}"),
        (0.03, "Worse by", f"{math.exp(0.03) - 1:.0%}"),
        (-0.1, "Better by", f"{1 - math.exp(-0.1):.0%}"),
        (1.0, "Worse by a factor of", "2.72"),
    ],
)
def test_quality_in_words(tmp_path: Path, harm: float, label: str, value: str) -> None:
    record = run_folders.record()
    measured = run_folders.eval_json(record["parameters"]["after"], harm)
    folder = run_folders.save(tmp_path / "p", slimgpt=record, eval=measured)
    run, dense = one_run(folder, dense=str(run_folders.save_dense(tmp_path / "dense")))
    tile = quality_tile(run, subjects([run], dense))
    assert (tile.label, tile.value) == (label, value)
    assert ("95 % intervals overlap" in tile.details[0]) == (abs(harm) < 2 * 1.96 * 0.02)


def test_quality_by_tasks_alone_is_in_points(tmp_path: Path) -> None:
    def tasks_only(measured: dict[str, Any]) -> dict[str, Any]:
        results = {name: entry for name, entry in measured["results"].items() if "perplexity,none" not in entry}
        return {**measured, "results": results}

    record = run_folders.record()
    measured = tasks_only(run_folders.eval_json(record["parameters"]["after"], 0.5))
    folder = run_folders.save(tmp_path / "p", slimgpt=record, eval=measured)
    dense = tmp_path / "dense"
    dense.mkdir()
    (dense / "eval.json").write_text(json.dumps(tasks_only(run_folders.eval_json())))
    run, found = one_run(folder, dense=str(dense))
    tile = quality_tile(run, subjects([run], found))
    assert (tile.label, tile.value) == ("Worse by", "5.0 points")


def one_run(folder: Path, **options: Any) -> Any:
    runs, dense = read_runs(ReportConfig((str(folder),), **options))
    return runs[0], dense


# --- reading ---------------------------------------------------------------------------------------


def test_intervals_are_of_95_per_cent() -> None:
    found = quality(run_folders.eval_json())
    score = found.texts["wiki.test@2048"].perplexity
    assert score.value == pytest.approx(math.exp(3.2))
    assert (score.low, score.high) == pytest.approx((math.exp(3.2 - 1.96 * 0.02), math.exp(3.2 + 1.96 * 0.02)), 1e-4)
    assert found.tasks["boolq"].score.high - found.tasks["boolq"].score.low == pytest.approx(2 * 1.96 * 0.02, 1e-4)
    assert found.tasks["boolq"].num_rows == 500


def test_a_task_without_standard_error_or_accuracy_is_read() -> None:
    content = run_folders.eval_json()
    content["results"] = {
        "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": "N/A"},
        "odd": {"alias": "odd", "bleu,none": 3.0},
    }
    found = quality(content)
    assert found.tasks["gsm8k"].score == Interval(0.25, 0.25, 0.25)
    assert found.tasks["gsm8k"].num_rows is None
    assert "odd" not in found.tasks


def test_an_interval_of_a_share_ends_at_0_and_1() -> None:
    content = run_folders.eval_json()
    content["results"]["boolq"].update({"acc,none": 0.99, "acc_stderr,none": 0.1})
    content["results"]["piqa"].update({"acc,none": 0.01, "acc_stderr,none": 0.1})
    tasks = quality(content).tasks
    assert (tasks["boolq"].score.high, tasks["piqa"].score.low) == (1.0, 0.0)


def test_a_run_finds_itself_in_its_bench_file_wherever_it_lies(tmp_path: Path) -> None:
    folder = run_folders.save_runs(tmp_path, (0.2,))[0]
    run, dense = one_run(shutil.move(folder, tmp_path / "elsewhere"))
    assert run.speed.parameters == run.after
    assert dense.speed.parameters == run.before


def test_names_are_as_long_as_it_takes() -> None:
    names = short_names([Path("a/x/out"), Path("b/x/out"), Path("c")])
    assert [name.rsplit("/", 2)[-3:] for name in names][:2] == [["a", "x", "out"], ["b", "x", "out"]]
    assert short_names([Path("a/one"), Path("a/two")]) == ["one", "two"]
    assert short_names([Path("a/dense").absolute()]) == ["a/dense"]


def test_the_pareto_front_is_what_nothing_beats() -> None:
    draw = random.Random(0)
    for lower in (True, False):
        points = [(draw.randint(0, 9), draw.randint(0, 9)) for _ in range(30)]
        sign = 1 if lower else -1
        unbeaten = {
            (cost, worth)
            for cost, worth in points
            if not any((c <= cost and sign * w <= sign * worth) and (c, w) != (cost, worth) for c, w in points)
        }
        front = pareto_front(points, lower)
        assert set(front) == unbeaten
        assert front == sorted(front)


@pytest.mark.parametrize(
    ("num_layers", "num_units"), [(1, 1), (80, 8), (4, 128)], ids=["one layer", "deep", "many heads"]
)
def test_models_of_any_shape_are_drawn(tmp_path: Path, num_layers: int, num_units: int) -> None:
    sites = []
    for index in range(num_layers):
        sites.append(run_folders.site(index, "attention", num_units, range((num_units + 1) // 2)))
        sites += [run_folders.site(index, f"ffn.{e}", 64, [1, 2, 3], 0.1 * e, unit="channel") for e in range(2)]
    folder = run_folders.save(tmp_path / "run", slimgpt=run_folders.record(sites=sites))
    page = made(tmp_path / "r.html", folder)
    assert len(page.all("svg")) == 4
    assert "4.7%" in page.text  # 3 of 64


def test_parts_that_some_layers_or_runs_lack_are_left_out_there(tmp_path: Path) -> None:
    """And what lies beside the layers is in the card's table, but in no picture of the layers."""
    attention = run_folders.site(0, "attention", 8, range(6), unit="head")
    mixer = run_folders.site(1, "convolution", 40, range(30), 0.25)
    channels = [run_folders.site(index, "ffn", 64, range(32), unit="channel") for index in range(2)]
    beside = run_folders.site(None, "vocabulary", 1000, range(900), 0.05, unit="token")
    options = dataclasses.asdict(PruneConfig("models/dense", "out"))
    record = run_folders.record(sites=[attention, channels[0], mixer, channels[1], beside], options=options)
    folder = run_folders.save(tmp_path / "mixed", slimgpt=record)
    run, _ = one_run(folder)
    assert [list(layer) for layer in run.layers] == [["attention", "ffn"], ["convolution", "ffn"]]
    other = run_folders.save(tmp_path / "other", slimgpt=run_folders.record())
    drawn = {str(figure["id"]) for figure in made(tmp_path / "r.html", folder, other).all("figure")}
    kept = {f"kept-{name}" for name in ("attention-1", "ffn-1", "convolution-1", "attention-2", "ffn-2")}
    assert drawn == kept | {"error-attention", "error-ffn", "error-convolution"}
    rows = model_card(record).splitlines()
    assert "| 1 | – | 32 of 64 | 30 of 40 | – | – | 0.1000 | 0.2500 | – |" in rows
    assert "| model | – | – | – | 900 of 1000 | – | – | – | 0.0500 |" in rows


def test_a_record_of_the_old_form_is_read_alike(tmp_path: Path) -> None:
    record = run_folders.record(options=dataclasses.asdict(PruneConfig("models/dense", "out")))
    older = run_folders.old_form(record)
    assert model_card(older) == model_card(record)
    one, other = (run_folders.save(tmp_path / name, slimgpt=form) for name, form in (("o", older), ("n", record)))
    assert unnamed(one_run(one)[0]) == unnamed(one_run(other)[0])


def unnamed(run: Any) -> list[dict[str, Any]]:
    """What is left of every layer; the old form does not say what a unit of attention is called."""
    return [{part: dataclasses.replace(kept, unit="") for part, kept in layer.items()} for layer in run.layers]


@pytest.mark.parametrize("form", [lambda record: record, run_folders.old_form], ids=["schema 2", "schema 1"])
def test_query_heads_that_went_by_themselves_are_drawn_and_counted(tmp_path: Path, form: Any) -> None:
    attention = [
        run_folders.site(0, "attention", 3, [0, 2], members=2, kept_members=[0, 1, 4, 5]),
        run_folders.site(1, "attention", 3, [0, 1, 2], members=2, kept_members=[1, 2, 5]),
        run_folders.site(2, "attention", 3, [0, 2]),  # one query head in each group already
    ]
    ffn = [run_folders.site(index, "ffn", 64, [1, 2, 3], unit="channel") for index in range(3)]
    whole = {"options": dataclasses.asdict(PruneConfig("models/dense", "out")), "sizes": [{}] * 3}
    record = form(run_folders.record(sites=[*attention, *ffn], **whole))
    page = made(tmp_path / "r.html", run_folders.save(tmp_path / "run", slimgpt=record))
    assert "Every square is a query head; up to 2 side by side share a KV head" in page.text
    assert "66.7%" in page.text and "50.0%" in page.text  # 4 and 3 of 6
    card = model_card(record)
    assert "| query heads, all layers | 15 | 9 |" in card
    assert "| 0 | 2 of 3 | " in card and "| 1 | 3 of 3, 1 of 2 queries in each | " in card
    coarse = model_card(form(run_folders.record(sites=[attention[0], ffn[0]], **whole)))
    assert "query heads" not in coarse


# --- the command -----------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_command_writes_where_it_is_told(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "r.html", tmp_path / "figures"
    assert run("report", place / "bare", "-o", out, "--figures", figures) == 0
    shown = capsys.readouterr().out
    assert f"Written to {out}" in shown
    assert "4 figures in" in shown
    files = sorted(figures.iterdir())
    names = ["error-attention.png", "error-ffn.png", "kept-attention-1.png", "kept-ffn-1.png"]
    assert [file.name for file in files] == names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    first = {file.name: file.read_bytes() for file in files}
    assert run("report", place / "bare", "-o", out, "--figures", figures, "--force") == 0
    assert {file.name: file.read_bytes() for file in figures.iterdir()} == first


def test_figures_as_svg(place: Path, tmp_path: Path) -> None:
    report(ReportConfig((str(place / "bare"),), str(tmp_path / "r.html"), figures=str(tmp_path), figure_format="svg"))
    text = (tmp_path / "kept-attention-1.svg").read_text(encoding="utf-8")
    assert palette.LIGHT["series-1"] in text
    assert "var(--" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no RUN is named"),
        (["BARE", "-o", "page.txt"], "--out 'page.txt' must end in .html"),
        (["BARE", "-o", "no/page.html"], "there is no folder no. Make it first"),
        (["BARE", "-o", "taken.html"], "taken.html exists: choose another name, or replace it with --force"),
        (["BARE", "--figures", "taken.html"], "--figures taken.html is a file: name a folder"),
        (["BARE", "--figures", "no/figures"], "there is no folder no. Make it first"),
        (
            ["BARE", "--figures", "drawn"],
            "drawn/kept-attention-1.png exists: choose another name, or replace it with --force",
        ),
        (["BARE", "BARE"], "is named twice"),
        (["./none"], "none holds no slimgpt.json: name a folder made by slimgpt prune or slimgpt recover"),
        (["PLACE"], "It holds runs, though: name bare, …"),
        (["newer"], "newer/slimgpt.json was made by a newer slimgpt (schema 3; this one knows up to 2)"),
        (["newer-eval"], "newer-eval/measured/eval.json was made by a newer slimgpt (schema 7"),
        (["damaged"], "damaged/slimgpt.json is damaged"),
        (["holes"], "holes/measured/compare.json is damaged (KeyError: 'against')"),
        (["foreign"], "foreign/measured/bench.json measures no model of 107,612,006 parameters"),
        (["tuned"], "tuned was fine-tuned, but never pruned"),
        (["BARE", "--dense", "./none"], "--dense ./none holds no eval.json and no bench.json"),
        (["BARE", "--dense", "wrong"], "wrong/eval.json is of a model with 1,000 parameters, but the runs were pruned"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_leaves_nothing(
    arguments: list[str], message: str, place: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    make_bad_folders(tmp_path)
    places = {"BARE": str(place / "bare"), "PLACE": str(place)}
    before = sorted(tmp_path.rglob("*"))
    assert run("report", *(places.get(argument, argument) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("slimgpt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def make_bad_folders(here: Path) -> None:
    (here / "taken.html").write_text("mine")
    (here / "drawn").mkdir()
    (here / "drawn" / "kept-attention-1.png").write_bytes(b"mine")
    record = run_folders.record()
    run_folders.save(here / "newer", slimgpt={**record, "schema": 3})
    run_folders.save(here / "newer-eval", slimgpt=record, eval=run_folders.eval_json(schema=7))
    run_folders.save(here / "damaged", slimgpt={key: record[key] for key in record if key != "parameters"})
    run_folders.save(here / "holes", slimgpt=record, compare={"schema": 1, "kind": "compare"})
    run_folders.save(here / "foreign", slimgpt=record, bench=run_folders.bench_json({"x": (5, 1.0)}))
    run_folders.save(here / "tuned", slimgpt={"schema": 1, "source": "m", "recovery": [run_folders.recovery()]})
    run_folders.save_dense(here / "wrong", parameters=1000)


def test_without_its_libraries_the_cure_is_named(place: Path, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for arguments in (["report", place / "bare"], ["prune", "m", tmp_path / "out", "--report"]):
        assert run(*arguments) == 2
        assert "a report needs matplotlib and jinja2: pip install 'slimgpt[report]'" in capsys.readouterr().err


def test_help_mentions_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "--help") == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(ReportConfig):
        assert ("RUN" if field.name == "runs" else "--" + field.name.replace("_", "-")) in shown


# --- after real runs -------------------------------------------------------------------------------


@pytest.mark.nightly
def test_pruning_measuring_and_reporting_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files that prune, eval and bench write are those that report reads."""
    model, out, text = tiny_llama.save_model(tmp_path / "model"), tmp_path / "out", tmp_path / "text.txt"
    text.write_text("some text to read, and to read again, line by line\n" * 40)
    pruning = ["--ratio", 0.3, "--calibration", "builtin", "--samples", 4, "--seqlen", 32, "--round-to", 1]
    assert run("prune", model, out, *pruning, "--report") == 0
    bare = Page((out / "report.html").read_text(encoding="utf-8"))
    assert f"slimgpt bench {model} {out} --record" in bare.text
    reading = ["--text", text, "--seqlen", 32, "--max-tokens", 256]
    assert run("eval", out, *reading, "--against", model, "--record") == 0
    (tmp_path / "dense").mkdir()
    assert run("eval", model, *reading, "--json", tmp_path / "dense" / "eval.json") == 0
    timing = ["--prompt-tokens", 8, "--new-tokens", 4, "--repeats", 2, "--device", "cpu"]
    assert run("bench", model, out, *timing, "--record") == 0
    page = made(tmp_path / "r.html", out, dense=str(tmp_path / "dense"))
    assert "not measured" not in page.text
    assert {str(figure["id"]) for figure in page.all("figure")} >= {"perplexity", "cka", "robustness", "speed-decode"}
    assert run("prune", model, out, *pruning, "--resume") == 0, "a report is no part of the run"
