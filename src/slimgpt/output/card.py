"""The model card that is written with every output: what was removed, how, what it cost, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt.output.card_kinds import calibration, making, opening
from slimgpt.output.card_proof import checked
from slimgpt.output.record_sites import SiteRecord, is_pruned, layer_rows, part_name, parts_of, sites_of, units_name

LOAD_PER_LAYER = """\
Every layer has its own number of heads and FFN width. Plain transformers loads it with the small modelling file that
is in this folder:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("PATH")
```

With slimgpt installed no remote code is needed: `import slimgpt` first and leave `trust_remote_code` out."""

LOAD_UNIFORM = """\
All layers have one size, so this is a stock model class:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```"""


def model_card(record: Mapping[str, Any], measured: Mapping[str, Any] | None = None) -> str:
    """Markdown made from the run's record, and from what was measured since, by kind: eval, compare, bench."""
    if (start := opening(record)) is not None:
        return _other_kind(record, start, measured or {})
    if not is_pruned(record):
        return _fine_tuned(record, measured or {})
    options, sizes, sites = record["options"], record["parameters"], sites_of(record)
    loading = LOAD_UNIFORM if options["layout"] == "uniform" else LOAD_PER_LAYER
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
tags: [slimgpt, pruning, structured-pruning]
---

# {record["source"]}, {sizes["removed_ratio"]:.1%} smaller

Made by slimgpt {record["versions"]["slimgpt"]} from `{record["source"]}` by
structured pruning: whole attention heads and FFN channels are gone, and the surviving weights are {_repair(options)}.

| | before | after |
|---|---|---|
| parameters | {sizes["before"]:,} | {sizes["after"]:,} |
{_counts(sites)}{_memory(record)}
{_measured(measured or {})}## How to load it

{loading}
{checked(record)}
## How it was made

Solver `{options["solver"]}`, allocation `{options["allocation"]}`, calibrated on
{calibration(record)}, damping {options["damping"]},
seed {options["seed"]}. `slimgpt.json` holds all options, versions, kept units and timings.

{_stages(record)}{_recoveries(record)}## What it cost, layer by layer

Relative squared error of each pruned projection's output on the calibration text (not a measure of the model's
quality: run `slimgpt eval`).{_of_last(record)}

{_layers(sites)}
"""


def _other_kind(record: Mapping[str, Any], start: str, measured: Mapping[str, Any]) -> str:
    """The card of a model that was made sparse or shallower."""
    return f"""\
{start}
{_measured(measured)}## How to load it

{LOAD_PER_LAYER if record["layout"] == "per-layer" else LOAD_UNIFORM}
{checked(record)}
## How it was made

{making(record)}

{_recoveries(record)}"""


def _fine_tuned(record: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """The card of a model that was not pruned."""
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
tags: [slimgpt]
---

# {record["source"]}, fine-tuned

Fine-tuned by slimgpt {record["recovery"][-1]["versions"]["slimgpt"]} from `{record["source"]}`. It was not pruned.

{_measured(measured)}## How to load it

{LOAD_UNIFORM}
{checked(record)}
{_recoveries(record)}"""


def _stages(record: Mapping[str, Any]) -> str:
    """The commands that one run was made of; nothing where it was one."""
    if not (stages := record.get("stages")):
        return ""
    commands = "\n".join(stage["command"] for stage in stages)
    return f"""\
These were {len(stages)} stages, by `--effort {record["options"]["effort"]}`; `calibration.jsonl` holds the calibration
windows:

```sh
{commands}
```

"""


def _of_last(record: Mapping[str, Any]) -> str:
    """Whose errors a card shows where there were several prunings."""
    several = sum(stage["name"] == "pruned" for stage in record.get("stages", [])) > 1
    return " Of several prunings it is the last one's." if several else ""


def _recoveries(record: Mapping[str, Any]) -> str:
    """What was trained after pruning; nothing where nothing was."""
    if not record.get("recovery"):
        return ""
    rows = "\n".join("| " + " | ".join(_recovery_row(entry)) + " |" for entry in record["recovery"])
    return f"""\
## How it was trained

| trained | towards | tokens learned | optimiser steps | held-out perplexity before | after |
|---|---|---|---|---|---|
{rows}

"""


def _recovery_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    weights = "all weights" if entry["weights"] == "all" else f"LoRA of rank {entry['options']['rank']}"
    data = f"`{entry['options']['data']}`"
    held_out = entry["held_out"]
    further = f", and on to {reached:g} of the way there" if (reached := entry.get("extrapolated_to", 1)) != 1 else ""
    return (
        weights,
        f"distillation from `{entry['teacher']}` on {data}" if entry["teacher"] else data,
        f"{entry['learned_tokens']:,}",
        f"{entry['steps']:,} (kept: {entry['best_step']:,}{further})",
        f"{held_out['perplexity_before']:.2f}",
        f"{held_out['perplexity_after']:.2f}",
    )


def _measured(measured: Mapping[str, Any]) -> str:
    """What is known of the model's quality and speed, with how it was measured; nothing where nothing is known."""
    sections = {"eval": _perplexities, "tasks": _tasks, "compare": _comparison, "bench": _speed}
    known = {**measured, "tasks": measured.get("eval")}
    return "".join(
        f"{text}\n\n" for kind, section in sections.items() if known.get(kind) and (text := section(known[kind]))
    )


def _perplexities(found: Mapping[str, Any]) -> str:
    rows = {name: entry for name, entry in found["results"].items() if "perplexity,none" in entry}
    return _table(
        f"## Perplexity\n\nMeasured {found['date'][:10]}; the name says the text and the window in tokens.",
        ("text", "perplexity", "bits per byte", "predicted tokens"),
        [
            (
                name + _beginning(found, name),
                _figure(row, "perplexity", 2),
                _figure(row, "bits_per_byte", 4),
                f"{_tokens(found, name):,}",
            )
            for name, row in rows.items()
        ],
    )


def _beginning(found: Mapping[str, Any], name: str) -> str:
    """Where a beginning-of-sequence token stood; nothing where none did."""
    where = {"always": "each window behind", "text": "the text behind"}.get(found["configs"][name].get("bos"))
    return f" ({where} a beginning-of-sequence token)" if where is not None else ""


def _tokens(found: Mapping[str, Any], name: str) -> int:
    return int(found["configs"][name]["num_tokens"])


def _tasks(found: Mapping[str, Any]) -> str:
    rows = {name: entry for name, entry in found["results"].items() if "acc,none" in entry}
    rows_of = {name: counts["effective"] for name, counts in found["n-samples"].items()}
    return _table(
        "## Tasks\n\nBy lm-evaluation-harness; the row `slimgpt` is the mean of the SlimGPT paper's seven tasks.",
        ("task", "accuracy", "normalised by length", "rows"),
        [
            (name, _figure(row, "acc", 3), _figure(row, "acc_norm", 3), f"{rows_of.get(name, 0):,}")
            for name, row in rows.items()
        ],
    )


def _figure(entry: Mapping[str, Any], metric: str, digits: int) -> str:
    """A figure with its standard error."""
    value, error = entry.get(f"{metric},none"), entry.get(f"{metric}_stderr,none")
    if value is None:
        return "–"
    return f"{value:,.{digits}f} ± {error:.{digits}f}" if isinstance(error, float) else f"{value:,.{digits}f}"


def _comparison(found: Mapping[str, Any]) -> str:
    rows = [
        (row["corruption"], f"{row['model_bits_per_byte']:.4f}", f"{row['against_bits_per_byte']:.4f}")
        for row in found["robustness"]
    ]
    tokens = (
        f"Kullback-Leibler divergence {found['kl_nats_per_token']:.4f} nats a token; the likeliest token is the same "
        f"for {found['top1_agreement']:.1%} of them. "
        if found["kl_nats_per_token"] is not None
        else ""
    )
    title = f"## Against {found['against']}\n\n{tokens}Bits per byte, on the text and on the text corrupted:"
    return _table(title, ("corruption", "this model", found["against"]), rows)


def _speed(found: Mapping[str, Any]) -> str:
    keys = ("prefill_tokens_per_s", "decode_tokens_per_s", "time_to_first_token_ms")
    return _table(
        f"## Speed\n\nMeasured {found['date'][:10]} on {found['device']}; medians.",
        ("model", "parameters", "prefill tokens/s", "decode tokens/s", "first token, ms"),
        [
            (row["model"], f"{row['parameters']:,}", *(f"{row[key]['median']:,.1f}" for key in keys))
            for row in found["models"]
        ],
    )


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([title, "", *("| " + " | ".join(line) + " |" for line in lines)])


def _repair(options: Mapping[str, Any]) -> str:
    repaired = options["repair"] if options["repair"] is not None else options["solver"] in ("obs", "slimgpt")
    return "repaired by least squares" if repaired else "left as they were"


def _counts(sites: Sequence[SiteRecord]) -> str:
    """The rows of units before and after, by part."""
    rows = []
    for part in parts_of(sites):
        alike = [site for site in sites if site.part == part]
        before, after = sum(site.num_units for site in alike), sum(len(site.kept) for site in alike)
        rows.append(f"| {units_name(part)}, all layers | {before:,} | {after:,} |\n")
        if any(site.lost_members for site in alike):
            members, left = (
                sum(site.num_units * site.members for site in alike),
                sum(len(site.pieces) for site in alike),
            )
            rows.append(f"| query heads, all layers | {members:,} | {left:,} |\n")
    return "".join(rows)


def _memory(record: Mapping[str, Any]) -> str:
    """The rows of weights and cache, where they were the target."""
    if (found := record.get("planned_memory")) is None:
        return ""
    names = {"weights_bytes": "weights", "cache_bytes": f"cache of {found['batch']:,} x {found['context']:,} tokens"}
    rows = (f"| {name}, bytes | {found[key]['before']:,} | {found[key]['after']:,} |\n" for key, name in names.items())
    return "".join(rows)


def _layers(sites: Sequence[SiteRecord]) -> str:
    """A table of what each layer keeps, and what that costs."""
    parts = parts_of(sites)
    header = ("layer", *map(units_name, parts), *(f"{part_name(part)} error" for part in parts))
    first, *rows = ("| " + " | ".join(line) + " |" for line in (header, *layer_rows(sites)))
    return "\n".join([first, "|" + "---|" * len(header), *rows])
