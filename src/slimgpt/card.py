"""The model card that is written with every output: what was removed, how, what it cost, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def model_card(record: Mapping[str, Any]) -> str:
    """Markdown made from the run's record alone."""
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
| FFN channels, all layers | {_units(record, "ffn", "num_units")} | {_units(record, "ffn", "kept")} |

## How to load it

{loading}

## How it was made

Solver `{options["solver"]}`, allocation `{options["allocation"] or _default_allocation(options)}`, calibrated on
{options["samples"]} windows of {options["seqlen"]} tokens of `{options["calibration"]}`, damping {options["damping"]},
seed {options["seed"]}. `slimgpt.json` holds all options, versions, kept units and timings.

## What it cost, layer by layer

Relative squared error of each pruned projection's output on the calibration text (not a measure of the model's
quality: run `slimgpt eval`).

| layer | attention units | FFN channels | attention error | FFN error |
|---|---|---|---|---|
{_layer_rows(record)}
"""


def _repair(options: Mapping[str, Any]) -> str:
    repaired = options["repair"] if options["repair"] is not None else options["solver"] in ("obs", "slimgpt")
    return "repaired by least squares" if repaired else "left as they were"


def _default_allocation(options: Mapping[str, Any]) -> str:
    return "uniform" if options["layout"] == "uniform" else "log"


def _units(record: Mapping[str, Any], site: str, key: str) -> str:
    counts = [entry[key] for layer in record["layers"] for entry in entries(layer, site)]
    return f"{sum(len(count) if isinstance(count, list) else count for count in counts):,}"


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
    return f"{len(first['kept'])} of {first['num_units']}", f"{error:.4f}"
