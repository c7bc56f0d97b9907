"""What people see of a study: progress and answers on the terminal, and one offline page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table as ConsoleTable

from slimgpt.machine.atomic import write_text
from slimgpt.reports.charts import study as charts
from slimgpt.reports.charts.chart import Chart, Table
from slimgpt.reports.loudness import out
from slimgpt.reports.progress import Headway
from slimgpt.reports.rendering import render
from slimgpt.studies import StudyObserver, StudyResult
from slimgpt.studies.cells import Cell
from slimgpt.studies.claims import Answer, Cells, shown
from slimgpt.studies.recipe import NONE

TEMPLATE, PAGE = "study.html.jinja", "study.html"
SHOWN = (
    "parameters", "nonzero_parameters", "stored_bytes", "perplexity", "seen_nll_per_token", "nll_per_token",
    "suite_accuracy", "flops_per_token", "flops_per_token_without_zeros", "decode_ms_per_token",
    "decode_ratio_to_dense", "peak_bytes", "bench_machine_joules", "seconds",
)  # fmt: skip


class StudyProgress(Headway, StudyObserver):
    """A line when work starts, and one a cell; between them, how far the study is."""

    page: Path | None = None

    def planned(self, num_cells: int, num_finished: int) -> None:
        """Say how much there is to do."""
        self._cells, self._finished = num_cells, num_finished
        self.said(f"{num_cells} cells, {num_finished} of them finished before.")
        self.begin(f"cells, of {num_cells}", num_cells - num_finished)

    def finished(self, record: Mapping[str, Any]) -> None:
        """Say how a cell went."""
        self._finished += 1
        self.advance()
        seconds = sum(step["seconds"] for step in record["steps"])
        name = Cell(**record["cell"]).name
        self.said(f"{self._finished}/{self._cells} {name}: {record['status']}, {seconds:.0f} s")
        if record["error"]:
            self.said(f"  {record['error']['step']}: {record['error']['message']}")

    def answered(self, done: StudyResult) -> None:
        """Write the page."""
        self.page = write_page(done)


def print_study(done: StudyResult) -> None:
    """Answers, and how many cells there are."""
    table = ConsoleTable(title=f"Study: {done.out}", title_justify="left", show_lines=True)
    for column in ("claim", "verdict", "what was found"):
        table.add_column(column)
    for answer in done.answers:
        table.add_row(answer.claim, answer.verdict, answer.summary)
    out.print(table)
    failed = f", {len(done.failures)} of them failed: see the page, and --retry" if done.failures else ""
    out.print(f"{len(done.records)} cells{failed}.")


def write_page(done: StudyResult) -> Path:
    """The page, beside the table; it replaces the one of an earlier run of the same study."""
    rows = done.table.to_pylist()
    cells = Cells(done.records)
    page = render(
        TEMPLATE,
        done=done,
        answers=[(own, _forest(index, own), evidence_table(own)) for index, own in enumerate(done.answers, 1)],
        tradeoffs=_tradeoffs(done, rows),
        curves=curve_charts(cells),
        speeds=_speeds(done, rows),
        quantised=_quantised(rows),
        robustness=_robustness(rows),
        cells=_cells(rows),
        recipe=yaml.safe_dump(_plain(asdict(done.recipe)), sort_keys=False, allow_unicode=True),
    )
    path = done.out / PAGE
    write_text(path, page)
    return path


def _tradeoffs(done: StudyResult, rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    found = [
        charts.pareto(f"pareto-{index}", model, [row for row in rows if row["model"] == model], cost)
        for index, model in enumerate(done.recipe.models, 1)
        for cost in charts.COSTS
    ]
    return [chart for chart in found if chart is not None]


def _speeds(done: StudyResult, rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    found = [
        charts.zeros_and_speed(f"speed-{index}", model, [row for row in rows if row["model"] == model])
        for index, model in enumerate(done.recipe.models, 1)
    ]
    return [chart for chart in found if chart is not None]


def curve_charts(cells: Cells) -> list[Chart]:
    """One figure for each model, tuning and granularity, without quantisation."""
    lines: dict[tuple[str, str, str], dict[str, list[tuple[float, Any]]]] = {}
    for group in cells.groups(lambda cell: cell.quantisation == NONE):
        own = group[0]
        if all(cells.has(cell.control()) for cell in group):
            figure = lines.setdefault((own.model, own.granularity, own.tuning), {})
            way = " ".join(
                [own.method, *(p for p in (own.schedule, own.allocation) if p not in ("one-shot", "default"))]
            )
            figure.setdefault(way, []).append((cells.removed(own), cells.compared(group, Cell.control)))
    return [
        charts.curves(
            f"curves-{index}",
            f"{model}: {granularity}{'' if tuning == NONE else f', tuned ({tuning})'}",
            [charts.Curve(name, points) for name, points in figure.items()],
        )
        for index, ((model, granularity, tuning), figure) in enumerate(lines.items(), 1)
    ]


def _forest(number: int, answer: Answer) -> Chart | None:
    if not answer.evidence:
        return None
    title = f"Claim {number}, every comparison"
    reading = (
        "Marks are paired differences, lines their 95 % intervals, widened for the number of comparisons; below zero "
        "the first is better. Filled marks are those whose interval leaves zero out."
    )
    return charts.forest(f"claim-{number}", title, reading, answer.evidence)


def evidence_table(answer: Answer) -> Table:
    """Every comparison of an answer."""
    names = list(dict.fromkeys(name for own in answer.evidence for name in own.details))
    rows = [
        (
            own.what,
            "–" if own.ratio is None else f"{own.ratio:.1%}",
            shown(own.difference),
            *(_figure(own.details.get(name)) for name in names),
        )
        for own in answer.evidence
    ]
    return Table(("comparison", "removed or zero", "difference on held-out text", *names), rows)


def _quantised(rows: Sequence[Mapping[str, Any]]) -> Table:
    chosen = [row for row in rows if row["quantisation"] != NONE and row["status"] == "done"]
    columns = ("stored_bytes", "perplexity", "decode_ms_per_token", "decode_ratio_to_dense")
    body = [(f"{row['model']}, {charts.cell_name(row)}", *(_figure(row[name]) for name in columns)) for row in chosen]
    return Table(("cell", *(name.replace("_", " ") for name in columns)), body)


def _robustness(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("bits_per_byte", "typos_bits_per_byte", "case_bits_per_byte", "shuffled_words_bits_per_byte")
    chosen = [row for row in rows if row["typos_bits_per_byte"] is not None]
    body = [(f"{row['model']}, {charts.cell_name(row)}", *(_figure(row[name]) for name in columns)) for row in chosen]
    return Table(("cell", "as it is", "typos", "case", "shuffled words"), body)


def _cells(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = [name for name in SHOWN if any(row[name] is not None for row in rows)]
    body = [(f"{row['model']}, {charts.cell_name(row)}", *(_figure(row[name]) for name in columns)) for row in rows]
    return Table(("cell", *(name.replace("_", " ") for name in columns)), body)


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, (list, tuple)) else value
