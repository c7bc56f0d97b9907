"""What is kept of a study in this repository: table, answers and figures, also of a study that is still running.

python benchmarks/study.py STUDY_FOLDER benchmarks/results
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimgpt.reports.charts import study as charts
from slimgpt.reports.charts.chart import Chart, Table
from slimgpt.reports.study import curve_charts, evidence_table
from slimgpt.studies import CELLS, HEADER, run, table
from slimgpt.studies.claims import Answer, Cells, answers

COLUMNS = ("parameters", "nonzero_parameters", "stored_bytes", "perplexity", "seen_nll_per_token", "nll_per_token")


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    header = json.loads((source / HEADER).read_text())
    found = [run.finished(source / CELLS, identity) for identity in header["cells"]]
    records = [record for record in found if record is not None]
    rows = table.as_table(records)
    table.write(rows, target)
    (target / "table.csv").rename(target / "study.csv")
    (target / "table.parquet").unlink()
    figures = drawn(records, rows.to_pylist())
    for chart in figures:
        chart.save(target / f"study-{chart.name}.png", "png")
    (target / "study.md").write_text(text(records, rows.to_pylist(), len(header["cells"]), figures))


def drawn(records: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    by_size = [
        charts.pareto(f"pareto-{index}", model, [row for row in rows if row["model"] == model], charts.COSTS[0])
        for index, model in enumerate(models, 1)
    ]
    return [chart for chart in by_size if chart is not None] + curve_charts(Cells(records))


def text(
    records: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], num_cells: int, figures: Sequence[Chart]
) -> str:
    failed = [record for record in records if record["status"] != run.DONE]
    parts = [
        "# Study: can pruning make LLMs more efficient?\n",
        f"{len(records)} of {num_cells} cells, {len(failed)} of them failed; {days(records)}. "
        "Made by `benchmarks/study.py`; [docs/study.md](../../docs/study.md) says what it means.\n",
        *(answered(number, answer) for number, answer in enumerate(answers(records), 1)),
        "## Every cell\n",
        markdown(cells(rows)),
        *(f"![{chart.title}. {chart.reading}](study-{chart.name}.png)\n" for chart in figures),
        *(f"Failed: {record['id']}, {record['error']['step']}: {record['error']['message']}\n" for record in failed),
    ]
    return "\n".join(parts)


def days(records: Sequence[Mapping[str, Any]]) -> str:
    dates = sorted(record["date"][:10] for record in records)
    device = next((own["measured"]["eval"]["config"]["device"] for own in records if "eval" in own["measured"]), "?")
    return f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, on {device}"


def answered(number: int, answer: Answer) -> str:
    lines = [
        f"## {number}. {answer.claim}\n",
        f"**{answer.verdict.capitalize()}.** {answer.summary}\n",
        answer.test,
        "",
    ]
    return "\n".join([*lines, *([markdown(evidence_table(answer))] if answer.evidence else [])])


def cells(rows: Sequence[Mapping[str, Any]]) -> Table:
    body = [
        (
            f"{row['model']}, {charts.cell_name(row)}",
            *("–" if row[name] is None else shown(row[name]) for name in COLUMNS),
        )
        for row in rows
    ]
    return Table(("cell", *(name.replace("_", " ") for name in COLUMNS)), body)


def shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def markdown(content: Table) -> str:
    lines = [content.header, ["---"] * len(content.header), *content.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
