"""The model card that is written with every output: what was removed, how, what it cost, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimgpt.output.card_kinds import making, opening
from slimgpt.output.card_proof import checked
from slimgpt.sites import part_of

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
    if "layers" not in record:
        return _fine_tuned(record, measured or {})
    options, sizes = record["options"], record["parameters"]
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
| attention units, all layers | {_units(record, "attention", "num_units")} | {_units(record, "attention", "kept")} |
{_queries(record)}| FFN channels, all layers | {_units(record, "ffn", "num_units")} | {_units(record, "ffn", "kept")} |

{_measured(measured or {})}## How to load it

{loading}
{checked(record)}
## How it was made

Solver `{options["solver"]}`, allocation `{options["allocation"]}`, calibrated on
{options["samples"]} windows of {options["seqlen"]} tokens of `{options["calibration"]}`, damping {options["damping"]},
seed {options["seed"]}. `slimgpt.json` holds all options, versions, kept units and timings.

{_recoveries(record)}## What it cost, layer by layer

Relative squared error of each pruned projection's output on the calibration text (not a measure of the model's
quality: run `slimgpt eval`).

| layer | attention units | FFN channels | attention error | FFN error |
|---|---|---|---|---|
{_layer_rows(record)}
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
            (name, _figure(row, "perplexity", 2), _figure(row, "bits_per_byte", 4), f"{_tokens(found, name):,}")
            for name, row in rows.items()
        ],
    )


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


def _units(record: Mapping[str, Any], site: str, key: str) -> str:
    counts = [entry[key] for layer in record["layers"] for entry in entries(layer, site)]
    return f"{sum(len(count) if isinstance(count, list) else count for count in counts):,}"


def _queries(record: Mapping[str, Any]) -> str:
    """The row of query heads, where some have gone without their KV group."""
    sites = [entry for layer in record["layers"] for entry in entries(layer, "attention")]
    if not any(lost_members(entry) for entry in sites):
        return ""
    before = sum(entry["num_units"] * entry.get("members", 1) for entry in sites)
    after = sum(len(kept_members(entry)) for entry in sites)
    return f"| query heads, all layers | {before:,} | {after:,} |\n"


def kept_members(entry: Mapping[str, Any]) -> list[int]:
    """Members (query heads) that a site keeps, counted through all units; units where each is all of a piece."""
    return list(entry.get("kept_members", entry["kept"]))


def lost_members(entry: Mapping[str, Any]) -> int:
    """How many members every kept unit of a site has lost."""
    return int(entry["members"]) - len(kept_members(entry)) // len(entry["kept"]) if "members" in entry else 0


def _layer_rows(record: Mapping[str, Any]) -> str:
    return "\n".join("| " + " | ".join(layer_row(layer)) + " |" for layer in record["layers"])


def layer_row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    """A layer's index, what it keeps and the relative errors that this costs, for a table."""
    kept, errors = zip(*(_part(entries(layer, part)) for part in ("attention", "ffn")), strict=True)
    return (str(layer["layer"]), *kept, *errors)


def entries(layer: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """The records of a layer's sites of one part."""
    return [entry for name, entry in layer["sites"].items() if part_of(name) == part]


def _part(sites: list[Mapping[str, Any]]) -> tuple[str, str]:
    """Experts keep equally many units each; their errors are averaged."""
    first, error = sites[0], sum(site["error"] for site in sites) / len(sites)
    units = f"{len(first['kept'])} of {first['num_units']}"
    if lost := lost_members(first):
        units += f", {first['members'] - lost} of {first['members']} queries in each"
    return units, f"{error:.4f}"
