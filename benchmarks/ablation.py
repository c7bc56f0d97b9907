"""Where to cut and what to repair: quality of one model by method, at equal parameters and equal calibration.

    python benchmarks/ablation.py MODEL --calibration c4-train.jsonl --held-out c4-held-out.txt \\
        --text wikitext-2-raw.valid.txt --test-text wikitext-2-raw.test.txt --task-data tasks --work FOLDER

Choices between methods are made on ``--held-out`` and ``--text``, so those are validation texts; what is quoted of the
methods in ``--quoted`` is measured on the test text and the tasks. Measurements are appended to a JSONL file as they
finish and are not made again. Processes with other ``--seeds`` may share the file and the folder.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from transformers import AutoConfig, AutoTokenizer
from tyro.conf import Positional

from slimgpt import PruneConfig, load_model, perplexity, prune
from slimgpt.calibration import windows
from slimgpt.config import EvalConfig, RecoverConfig, read_recipe
from slimgpt.evaluation import evaluate, read_text, suite
from slimgpt.recovery import recover

DENSE, PAPER = "dense", "the paper"
BY_QUARTERS = "searched, query heads too, 24 candidates, by quarters, distilled"
METHODS: dict[str, dict[str, Any]] = {
    PAPER: {"solver": "slimgpt", "allocation": "log"},
    "log curve": {"allocation": "log"},
    "uniform": {"allocation": "uniform"},
    "uniform, ends exempt": {"allocation": "ends exempt"},
    "searched": {"allocation": "searched"},
    "log curve, query heads too": {"allocation": "log", "attention_units": "queries"},
    "searched, query heads too": {"allocation": "searched", "attention_units": "queries"},
    "log curve, errors corrected": {"allocation": "log", "correct_errors": True},
    "searched, errors corrected": {"allocation": "searched", "correct_errors": True},
    "searched, 24 candidates": {"allocation": "searched", "search_candidates": 24},
    "searched, in two steps": {"allocation": "searched", "steps": 2},
    "all together": {
        "allocation": "searched",
        "attention_units": "queries",
        "search_candidates": 60,
        "correct_errors": True,
        "steps": 2,
    },
    BY_QUARTERS: {
        "allocation": "searched",
        "attention_units": "queries",
        "search_candidates": 24,
        "at_most": 0.25,
        "most_samples": 256,
        "distil": True,
    },
    "log curve, the model's own text": {"allocation": "log", "calibration": "self"},
}
"""Options of ``slimgpt prune``; ``steps`` prunes so many times, each time by an equal part of the ratio, ``at_most`` as
often as it takes for no step to remove more of the dense model than that, ``most_samples`` prunes with so many of the
calibration windows where there are more, and ``distil`` has every step's model learn from the dense one, on the very
windows that there are for calibration."""

DISTILLED = (PAPER, "searched", "all together")
METHODS |= {f"{method}, distilled": METHODS[method] | {"distil": True} for method in DISTILLED}

RECIPE = Path(__file__).parents[1] / "recipes" / "recover-distill.yaml"
DISTILLATION: dict[str, Any] = {"label_share": 0.0, "keep": "last", "micro_batch_size": 8}
"""How *distilled* learns: from the dense model alone, so that no gain is calibration text learned by heart."""

EXEMPT_FIRST, EXEMPT_LAST = 4, 3
"""Layers that *ends exempt* leaves whole, as LLM-Pruner does (https://arxiv.org/abs/2305.11627)."""

CHOICE, TEST = "choice", "test"


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then write the tables of what has been measured."""

    model: Annotated[str, Positional]
    calibration: str
    held_out: str
    """Text of the calibration's kind that is not in it."""
    text: str
    """Text of another kind."""
    test_text: str
    """What results are quoted on."""
    task_data: str
    work: Path
    """Folder for searches and models."""
    methods: tuple[str, ...] = tuple(METHODS)
    quoted: tuple[str, ...] = (
        *(DENSE, "log curve", *DISTILLED),
        *(f"{method}, distilled" for method in DISTILLED),
        BY_QUARTERS,
    )
    """Methods to measure on the test text and the tasks."""
    out: Path = Path("benchmarks/results/ablation.jsonl")
    ratios: tuple[float, ...] = (0.25, 0.5)
    seeds: tuple[int, ...] = (0, 1)
    samples: int = 64
    seqlen: int = 512
    epochs: float = 4.0
    """Passes of *distilled* over the calibration windows."""
    compile: bool = False
    """Train compiled layers: needs a C++ compiler on a CPU."""
    window: int = 512
    """Tokens in a window of the validation texts; the test text has 128 and 2048."""
    max_tokens: int = 16384
    """Perplexity on the first tokens of each text."""
    limit: int = 60
    """First rows of each task."""
    note: str = ""
    """Hardware and date, for the table."""


@dataclass(frozen=True)
class Cell:
    """One model."""

    method: str
    ratio: float
    seed: int
    samples: int
    epochs: float

    def folder(self, options: Options) -> Path:
        name = self.method.replace(",", "").replace("'", "").replace(" ", "-")
        return options.work / f"{name}-{self.ratio}-{self.seed}-{self.samples}x{self.epochs:g}"


THE_DENSE = Cell(DENSE, 0.0, 0, 0, 0.0)


def cell_of(options: Options, method: str, ratio: float, seed: int) -> Cell:
    return Cell(method, ratio, seed, options.samples, options.epochs)


def main(options: Options) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    texts = {"held_out": read_text(options.held_out), "text": read_text(options.text)}
    done = read(options.out)
    for cell in cells(options):
        if find(done, CHOICE, cell) is None:
            write(options.out, CHOICE, cell, on_validation_texts(options, cell, texts))
        if cell.method in options.quoted and find(done, TEST, cell) is None:
            write(options.out, TEST, cell, on_test(options, cell))
    options.out.with_suffix(".md").write_text(report(options, read(options.out)))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path: Path, kind: str, cell: Cell, found: dict[str, Any]) -> None:
    row = {"measured": kind, **vars(cell), **found}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def find(rows: Sequence[dict[str, Any]], kind: str, cell: Cell) -> dict[str, Any] | None:
    wanted = {"measured": kind, **vars(cell)}
    return next((row for row in rows if wanted.items() <= row.items()), None)


def cells(options: Options) -> Iterator[Cell]:
    if 0 in options.seeds:
        yield THE_DENSE
    for seed in options.seeds:
        for method in options.methods:
            for ratio in options.ratios:
                yield cell_of(options, method, ratio, seed)


def on_validation_texts(options: Options, cell: Cell, texts: dict[str, str]) -> dict[str, Any]:
    model, tokenizer = load_model(made(options, cell))
    perplexities = {
        name: perplexity(model, tokenizer, text, options.window, options.max_tokens).perplexity
        for name, text in texts.items()
    }
    return {**cost(options, cell), **perplexities}


def on_test(options: Options, cell: Cell) -> dict[str, Any]:
    config = EvalConfig(
        made(options, cell),
        text=options.test_text,
        max_tokens=options.max_tokens,
        suite="slimgpt",
        task_data=options.task_data,
        limit=options.limit,
    )
    results, stem = evaluate(config).found["results"], Path(options.test_text).stem
    accuracies = {task: results[task][f"{metric},none"] for task, metric in suite.METRICS.items()}
    windows = {f"test_{seqlen}": results[f"{stem}@{seqlen}"]["perplexity,none"] for seqlen in config.seqlen}
    return {**windows, "tasks": accuracies, "tasks_error": results[suite.NAME]["acc_stderr,none"]}


def made(options: Options, cell: Cell) -> str:
    """The cell's model, pruned first where it is not there. Searches of the dense model serve all cells of a seed."""
    if cell.method == DENSE:
        return options.model
    folder, settings = cell.folder(options), dict(METHODS[cell.method])
    num_steps = settings.pop("steps", math.ceil(cell.ratio / settings.pop("at_most", 1)))
    distils, most = settings.pop("distil", False), settings.pop("most_samples", options.samples)
    if most < options.samples:
        settings |= {"calibration": str(calibration_text(options, cell.seed)), "samples": most}
    model = options.model
    if settings["allocation"] == "ends exempt":
        settings["allocation"] = str(ends_exempt(options))
    for step in range(1, num_steps + 1):
        before, after = (1 - cell.ratio * done / num_steps for done in (step - 1, step))
        shared = settings["allocation"] == "searched" and step == 1
        config = PruneConfig(
            model,
            str(folder / f"{step}-pruned"),
            ratio=1 - after / before,
            seed=cell.seed,
            seqlen=options.seqlen,
            search_cache=str(options.work / f"search-{cell.samples}-{cell.seed}") if shared else None,
            **{"calibration": options.calibration, "samples": options.samples, **settings},
        )
        if not Path(config.out).exists():
            prune(config)
        model = config.out
        if distils:
            model = distilled(options, model, folder / f"{step}-distilled", cell.seed)
    return model


def distilled(options: Options, pruned: str, out: Path, seed: int) -> str:
    """A pruned model after it has learned from the dense one."""
    if not out.exists():
        settings = read_recipe(str(RECIPE), RecoverConfig) | DISTILLATION
        settings |= {"epochs": options.epochs, "compile": options.compile}
        data = str(calibration_text(options, seed))
        recover(RecoverConfig(pruned, str(out), data, options.model, seed=seed, **settings))
    return str(out)


def calibration_text(options: Options, seed: int) -> Path:
    """The calibration windows of a seed, one a line."""
    path = options.work / f"calibration-{options.samples}x{options.seqlen}-{seed}.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    windows_BT = windows(options.calibration, tokenizer, options.samples, options.seqlen, seed)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in tokenizer.batch_decode(windows_BT)))
    return path


def cost(options: Options, cell: Cell) -> dict[str, Any]:
    """What making the cell's model took."""
    if cell.method == DENSE:
        return {}
    pruned, learned = (
        [json.loads(path.read_text()) for path in sorted(cell.folder(options).glob(f"*-{kind}/slimgpt.json"))]
        for kind in ("pruned", "distilled")
    )
    seconds = [record["cost"]["seconds"] for record in pruned]
    seconds += [record["recovery"][-1]["seconds"] for record in learned]
    return {
        "parameters": pruned[-1]["parameters"]["after"],
        "seconds": sum(sum(stages.values()) for stages in seconds),
        "search_seconds": sum(stages.get("search", 0.0) for stages in seconds),
    }


def ends_exempt(options: Options) -> Path:
    """An allocation file: one ratio for all layers but the first and the last ones."""
    num_layers = AutoConfig.from_pretrained(options.model).num_hidden_layers
    path = options.work / "ends-exempt.json"
    middle = range(EXEMPT_FIRST, num_layers - EXEMPT_LAST)
    path.write_text(json.dumps([1.0 if layer in middle else 0.0 for layer in range(num_layers)]))
    return path


def report(options: Options, rows: Sequence[dict[str, Any]]) -> str:
    choice = {Path(options.text).name: "text", Path(options.held_out).name: "held_out"}
    test = {f"{Path(options.test_text).name} at {seqlen}": f"test_{seqlen}" for seqlen in (128, 2048)}
    return "\n".join(
        [
            "# Quality by method",
            "",
            f"Perplexity on the first {options.max_tokens:,} tokens of each text; calibration {options.samples} x "
            f"{options.seqlen} tokens, no fine-tuning but in *distilled*: the model, after each pruning step, has "
            f"learned from the dense one for {options.epochs:g} epochs of those same tokens. Geometric mean "
            "over seeds (their number in brackets). *Cut*: how much smaller the log-perplexity gap to the dense model "
            "is than the paper's method leaves it, over the same seeds. All but the paper's have the exact solver. "
            f"{options.note}",
            "",
            f"## Validation texts, windows of {options.window}: what choices are made on",
            "",
            *table(options, rows, CHOICE, choice, options.methods),
            "",
            f"## Test text, and the paper's seven tasks (mean accuracy, first {options.limit} rows of each)",
            "",
            *table(options, rows, TEST, test, [name for name in options.quoted if name != DENSE]),
            "",
        ]
    )


def table(
    options: Options, rows: Sequence[dict[str, Any]], kind: str, measures: dict[str, str], methods: Sequence[str]
) -> Iterator[str]:
    dense = find(rows, kind, THE_DENSE)
    assert dense is not None, "the dense model is measured first"
    figures = " / ".join(f"{dense[measure]:,.2f}" for measure in measures.values())
    yield f"{' / '.join(measures)}. Dense: {figures}{tasks([dense])}."
    yield ""
    yield "| method | " + " | ".join(f"{ratio:.0%} | cut" for ratio in options.ratios) + " |"
    yield "|---|" + "---|---|" * len(options.ratios)
    for method in (name for name in methods if any(row["method"] == name for row in rows)):
        entries = [text for ratio in options.ratios for text in entry(options, rows, kind, measures, method, ratio)]
        yield f"| {method} | " + " | ".join(entries) + " |"


def entry(
    options: Options, rows: Sequence[dict[str, Any]], kind: str, measures: dict[str, str], method: str, ratio: float
) -> tuple[str, str]:
    """Figures of one method at one ratio, and what it cuts of the paper's gap."""
    dense = find(rows, kind, THE_DENSE)
    ours, papers = (
        {seed: row for seed in options.seeds if (row := find(rows, kind, cell_of(options, name, ratio, seed)))}
        for name in (method, PAPER)
    )
    if not ours or dense is None:
        return "not run", ""
    means = [math.exp(log_mean(ours, ours, measure)) for measure in measures.values()]
    figures = f"{' / '.join(f'{mean:,.1f}' for mean in means)} ({len(ours)}){tasks(list(ours.values()))}"
    shared = sorted(ours.keys() & papers.keys())
    if method == PAPER or not shared:
        return figures, ""
    cuts = []
    for measure in measures.values():
        mine, theirs = (log_mean(found, shared, measure) for found in (ours, papers))
        cuts.append(f"{(theirs - mine) / (theirs - math.log(dense[measure])):.0%}")
    return figures, " / ".join(cuts)


def log_mean(rows: dict[int, dict[str, Any]], seeds: Iterable[int], measure: str) -> float:
    return statistics.mean(math.log(rows[seed][measure]) for seed in seeds)


def tasks(rows: Sequence[dict[str, Any]]) -> str:
    """The mean over tasks and seeds, where tasks were measured, with the standard error of one seed's rows."""
    if "tasks" not in rows[0]:
        return ""
    mean = statistics.mean(statistics.mean(row["tasks"].values()) for row in rows)
    return f"; {mean:.1%} ± {rows[0]['tasks_error']:.1%}"


if __name__ == "__main__":
    main(tyro.cli(Options))
