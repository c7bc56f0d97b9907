"""The opening of the cards of models that were made in other ways than by pruning heads and channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADER = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [slimgpt, pruning]
---
"""


def opening(record: Mapping[str, Any]) -> str | None:
    """What the model is; None where it was pruned, or only fine-tuned."""
    write = {"sparsify": _sparse, "drop": _shallower, "trim": _fewer_tokens, "experts": _fewer_experts}.get(
        record.get("kind", "")
    )
    return write(record) if write is not None else None


def making(record: Mapping[str, Any]) -> str:
    """How it was made, in a sentence or two."""
    options = record["options"]
    if record["kind"] == "drop":
        return f"Method `{options['method']}`{_text(record)}. `slimgpt.json` holds all options, versions and scores."
    if record["kind"] == "trim":
        texts = ", ".join(f"`{text}`" for text in options["text"])
        return f"Tokens chosen by how often they stand in {texts}. `slimgpt.json` holds all options and old ids."
    if record["kind"] == "experts":
        text = _text(record) if options["expert_score"] not in ("aimer", "random") else ""
        return (
            f"Experts chosen by score `{options['expert_score']}`, seed {options['seed']}{text}. `slimgpt.json` holds "
            "all options, versions, scores and what the router sends to each expert."
        )
    reads = options["method"] not in ("magnitude", "random") or options["layer_ratios"] == "owl"
    return f"""\
Method `{options["method"]}`, pattern `{options["pattern"]}`, scope `{options["scope"]}`, layer ratios
`{options["layer_ratios"]}`, schedule `{options["schedule"]}`, {options["rounds"]} round(s), seed
{options["seed"]}{_text(record) if reads else ""}. `slimgpt.json` holds all options, versions and the zeros of every
projection."""


def _sparse(record: Mapping[str, Any]) -> str:
    found = record["sparsity"]
    trained = (
        "\nThese figures are of the model before it was trained (below): training fills zeros again unless its trainer "
        "keeps them.\n"
        if record.get("recovery")
        else ""
    )
    return f"""\
{HEADER}
# {record["source"]}, {found["projections"]:.1%} zeros

Made by slimgpt {record["versions"]["slimgpt"]} from `{record["source"]}`: {found["zeros"]:,} of the
{found["projection_weights"]:,} weights of the decoder layers' projections are zero, {found["parameters"]:.1%} of all
parameters. **It is stored dense and takes as much memory and time as the original**, unless a tool with sparse kernels
makes use of the zeros; no speed is claimed. With such kernels at their best, {found["flops_left_with_head"]:.1%} of the
multiplications with weights (head included) would be left.
{trained}"""


def _shallower(record: Mapping[str, Any]) -> str:
    depth, sizes = record["num_layers"], record["parameters"]
    return f"""\
{HEADER}
# {record["source"]}, {sizes["removed_ratio"]:.1%} smaller

Made by slimgpt {record["versions"]["slimgpt"]} from `{record["source"]}` by taking out {len(record["dropped"])} of its
{depth["before"]} decoder layers: {", ".join(map(str, record["dropped"]))}, counted from 0. The others are as they were;
nothing was repaired. {sizes["before"]:,} parameters became {sizes["after"]:,}.
"""


def _fewer_tokens(record: Mapping[str, Any]) -> str:
    found, sizes = record["vocabulary"], record["parameters"]
    more = found["text_tokens"]["after"] / found["text_tokens"]["before"] - 1
    return f"""\
{HEADER}
# {record["source"]}, {sizes["removed_ratio"]:.1%} smaller

Made by slimgpt {record["versions"]["slimgpt"]} from `{record["source"]}` by taking tokens out of its vocabulary:
{found["before"]:,} became {found["after"]:,}, and {sizes["before"]:,} parameters {sizes["after"]:,}. The weights of
what stays are as they were. Any text can still be written, with more tokens: {more:.1%} more on the text that the
tokens were chosen by. **Token ids are not those of the original.**
"""


def _fewer_experts(record: Mapping[str, Any]) -> str:
    found, sizes = record["experts"], record["parameters"]
    rows = "\n".join(_expert_row(found, layer) for layer in found["layers"])
    unseen = f" {found['unseen']} experts saw none." if found["unseen"] else ""
    repaired = (
        "The last projections of those that stay were refitted by least squares, where tokens that the fit had not "
        "seen confirmed it."
        if found["repaired"]
        else "The weights of what stays are as they were."
    )
    return f"""\
{HEADER}
# {record["source"]}, {sizes["removed_ratio"]:.1%} smaller

Made by slimgpt {record["versions"]["slimgpt"]} from `{record["source"]}` by taking out
{found["before"] - found["after"]} of the {found["before"]} experts of every layer that has any. A token still goes to
{found["per_token"]} of them. {repaired} {sizes["before"]:,} parameters became {sizes["after"]:,}.

An expert saw {found["tokens_mean"]:,.0f} tokens of the calibration text on average, and {found["tokens_least"]:,} at
least.{unseen}

| layer | experts that are gone, counted from 0 | tokens sent to them before |
|---|---|---|
{rows}
"""


def _expert_row(found: Mapping[str, Any], layer: Mapping[str, Any]) -> str:
    gone = sorted(set(range(found["before"])) - set(layer["kept"]))
    return f"| {layer['layer']} | {', '.join(map(str, gone))} | {1 - layer['share_kept']:.1%} |"


def _text(record: Mapping[str, Any]) -> str:
    return f", calibrated on {calibration(record)}"


def calibration(record: Mapping[str, Any]) -> str:
    """The text that a model was calibrated on, and how it was cut. Records of earlier builds say nothing of a token."""
    options, token = record["options"], record.get("bos")
    beginning = "" if token is None else f", each beginning with `{token}`"
    return f"{options['samples']} windows of {options['seqlen']} tokens of `{options['calibration']}`{beginning}"
