"""Makes the page: one file with everything in it, that asks for nothing and runs nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.config import ReportConfig
from slimgpt.output.single_file import single_file
from slimgpt.output.standing import PAGE
from slimgpt.reports import figures, summary
from slimgpt.reports.charts import layers, quality, recovery, tradeoff
from slimgpt.reports.charts.chart import Chart, Table
from slimgpt.reports.memory import mebibytes
from slimgpt.reports.rendering import render
from slimgpt.reports.runs import DENSE_NAME, Run, read_runs
from slimgpt.reports.subjects import Measure, Subject, headline, one_tokenizer, same_conditions, subjects, tasks, texts

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class ReportResult:
    """The page, and the files of the figures if they were asked for."""

    page: Path
    figures: tuple[Path, ...]


def report(config: ReportConfig) -> ReportResult:
    """Read the runs, draw, write.

    Raises:
        ConfigError, ModelError: see :func:`~slimgpt.reports.runs.read_runs`.
        OutputError: the page or a figure exists, or its folder does not.
    """
    config.check()
    with single_file(config.out, "--out", PAGE, config.force) as page:
        folder = figures.folder(config.figures)
        runs, dense = read_runs(config)
        models = subjects(runs, dense)
        charts = _charts(runs, models)
        drawn = figures.write(folder, charts.values(), config.figure_format, config.force) if folder else ()
        page.write_text(_render(config, runs, models, charts))
    return ReportResult(Path(config.out).expanduser(), drawn)


def _charts(runs: Sequence[Run], models: Sequence[Subject]) -> dict[str, Chart]:
    """Every figure that the measurements allow, by name."""
    charts = [chart for index, run in enumerate(runs) for chart in _kept(run, index)]
    charts += [layers.errors(runs, part) for part in _parts(runs)]
    measure = headline(models)
    if measure is not None and len(runs) > 1:
        charts += _tradeoffs(models, measure)
    if texts(models):
        charts.append(quality.perplexities(models))
    if tasks(models):
        charts.append(quality.accuracies(models))
    if any(model.speed for model in models) and same_conditions(models):
        charts += [tradeoff.speed(models, "prefill"), tradeoff.speed(models, "decode")]
    if any(run.comparison and run.comparison.cka for run in runs):
        charts.append(layers.similarity(runs))
    if any(run.comparison and run.comparison.robustness for run in runs):
        charts.append(quality.robustness(runs))
    trained = recovery.recoveries(runs)
    return {chart.name: chart for chart in [*charts, *([trained] if trained else [])]}


def _kept(run: Run, index: int) -> list[Chart]:
    return [layers.kept_units(run, index, part) for part in run.parts]


def _parts(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(part for run in runs for part in run.parts))


def _tradeoffs(models: Sequence[Subject], measure: Measure) -> list[Chart]:
    """Quality against cost, where two models or more have both."""
    judged = [model for model in models if model.name in measure.values]
    timed = [model for model in judged if model.speed]
    by_size = [tradeoff.by_size(judged, measure)] if len(judged) > 1 else []
    by_latency = [tradeoff.by_latency(timed, measure)] if len(timed) > 1 and same_conditions(timed) else []
    return by_size + by_latency


def _render(config: ReportConfig, runs: Sequence[Run], models: Sequence[Subject], charts: Mapping[str, Chart]) -> str:
    return render(
        TEMPLATE,
        runs=runs,
        sources=sorted({run.source.rstrip("/").rpartition("/")[2] for run in runs}),
        models=models,
        dense=next((model for model in models if model.name == DENSE_NAME), None),
        charts=charts,
        tiles={run.name: _tiles(run, models) for run in runs},
        commands={run.name: _commands(config, run) for run in runs},
        dense_command=_dense_command(config, runs[0]),
        one_tokenizer=one_tokenizer(models),
        same_conditions=same_conditions(models),
        settings={run.name: _settings(run) for run in runs},
        samples=_samples(runs),
        divergence=_divergence(runs),
        mebibytes=mebibytes,
    )


def _tiles(run: Run, models: Sequence[Subject]) -> list[summary.Tile]:
    dense = run.dense_speed or next((model.speed for model in models if model.name == DENSE_NAME), None)
    return [summary.size_tile(run), summary.speed_tile(run, dense), summary.quality_tile(run, models)]


def _commands(config: ReportConfig, run: Run) -> dict[str, str]:
    """What would measure what is missing."""
    folder, source = shlex.quote(run.folder), shlex.quote(run.source)
    return {
        "eval": f"slimgpt eval {folder} --text TEXT --suite slimgpt --record",
        "bench": f"slimgpt bench {source} {folder} --record",
        "compare": f"slimgpt eval {folder} --text TEXT --against {source} --record",
    }


def _dense_command(config: ReportConfig, run: Run) -> str:
    folder = shlex.quote(config.dense or "dense")
    again = f"slimgpt report {' '.join(map(shlex.quote, config.runs))} --dense {folder} --out {shlex.quote(config.out)}"
    evaluate = f"slimgpt eval {shlex.quote(run.source)} --text TEXT --suite slimgpt --json {folder}/eval.json"
    return f"mkdir -p {folder}\n{evaluate}\n{again} --force"


def _divergence(runs: Sequence[Run]) -> Table:
    """How predictions differ from the dense model's."""
    rows = [
        (run.name, f"{found.top1_agreement:.1%}", f"{found.kl_nats_per_token:.3f}")
        for run in runs
        if (found := run.comparison) and found.top1_agreement is not None and found.kl_nats_per_token is not None
    ]
    return Table(("model", "same likeliest token", "KL divergence, nats per token"), rows)


def _samples(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Prompt -> model -> its continuation, the dense model first."""
    prompts: dict[str, dict[str, str]] = {}
    for run in runs:
        for sample in run.comparison.samples if run.comparison else ():
            prompts.setdefault(sample.prompt, {DENSE_NAME: sample.dense})[run.name] = sample.pruned
    return prompts


def _settings(run: Run) -> dict[str, dict[str, Any]]:
    """Everything the record says of how the run was made, as tables of name and value."""
    record, cost = run.record, run.record["cost"]
    seconds = {f"{stage}, seconds": f"{value:,.1f}" for stage, value in cost["seconds"].items()}
    made = {"model": run.source, "family": record.get("family"), "folder": os.path.basename(run.folder.rstrip("/"))}
    tables = {
        "Model": made,
        "Options": record["options"],
        "Versions": record["versions"],
        "Cost": {
            "device": cost.get("device"),
            **seconds,
            "peak host memory": mebibytes(cost.get("peak_host_bytes") or 0),
        },
    }
    for number, entry in enumerate(record.get("recovery") or [], start=1):
        tables[f"Recovery {number}"] = {"method": entry.get("method"), **(entry.get("options") or {})}
    for name, options in (
        ("Evaluation", run.quality.options if run.quality else {}),
        ("Speed measurement", run.speed.options if run.speed else {}),
    ):
        if options:
            tables[name] = dict(options)
    return tables
