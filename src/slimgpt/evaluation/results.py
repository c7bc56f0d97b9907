"""Results as plain data: lm-evaluation-harness's own schema, with perplexities as further entries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from slimgpt.evaluation import suite
from slimgpt.evaluation.likelihood import Perplexity
from slimgpt.machine.versions import versions

SCHEMA = 1
BY_NAME = ("results", "configs", "n-shot", "n-samples", "higher_is_better", "versions", "window_nll")
"""The parts of the schema that hold one entry a task, and can be merged entry by entry."""

PROBE = " Probing 12,345 tokenizers:\n\tnaïve → ¿cuál?"


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 of the vocabulary and of the tokens of one odd line, which depend on merges and normalisation."""
    seen = [sorted(tokenizer.get_vocab().items()), tokenizer(PROBE, add_special_tokens=False)["input_ids"]]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def now() -> str:
    """The date and time, with its zone."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def library_versions() -> dict[str, str]:
    """Versions that the figures depend on, the harness's among them where it is installed."""
    try:
        return {**versions(), "lm_eval": version("lm_eval")}
    except PackageNotFoundError:
        return versions()


def perplexity_entry(found: Perplexity) -> dict[str, float]:
    """A perplexity in the harness's spelling."""
    return {
        "perplexity,none": found.perplexity,
        "perplexity_stderr,none": found.perplexity_error,
        "nll_per_token,none": found.nll_per_token,
        "nll_per_token_stderr,none": found.standard_error,
        "bits_per_byte,none": found.bits_per_byte,
        "bits_per_byte_stderr,none": found.bits_per_byte_error,
    }


def assemble(
    about: Mapping[str, Any],
    config: Mapping[str, Any],
    perplexities: Mapping[str, Perplexity],
    tasks: Mapping[str, Any] | None,
    with_suite: bool,
) -> dict[str, Any]:
    """Everything that one evaluation found.

    Args:
        about: model, parameters, tokenizer.
        config: what holds for all entries: limit, batch size, dtype, device and so on.
        perplexities: by name.
        tasks: the harness's own results.
        with_suite: whether the suite's mean belongs in.
    """
    found: dict[str, Any] = {
        "kind": "eval",
        "schema": SCHEMA,
        **about,
        "date": now(),
        **{part: dict((tasks or {}).get(part, {})) for part in BY_NAME},
        "config": dict(config),
    }
    found["versions"] = {**library_versions(), **found["versions"]}
    for name, measured in perplexities.items():
        _add_perplexity(found, name, measured)
    if with_suite:
        found["results"][suite.NAME] = suite.mean(found["results"])
        found["n-samples"][suite.NAME] = {
            kind: sum(found["n-samples"][task][kind] for task in suite.METRICS) for kind in ("original", "effective")
        }
        found["higher_is_better"][suite.NAME] = {"acc": True}
        found["configs"][suite.NAME] = {"metrics": suite.METRICS}
    return found


def _add_perplexity(found: dict[str, Any], name: str, measured: Perplexity) -> None:
    found["results"][name] = {"alias": name, **perplexity_entry(measured)}
    found["configs"][name] = {
        key: getattr(measured, key) for key in ("seqlen", "stride", "bos", "num_tokens", "num_bytes", "num_windows")
    }
    found["window_nll"][name] = list(measured.window_nll)
    found["n-shot"][name] = 0
    found["n-samples"][name] = dict.fromkeys(("original", "effective"), measured.num_windows)
    found["higher_is_better"][name] = {"perplexity": False, "nll_per_token": False, "bits_per_byte": False}


def merge(before: Mapping[str, Any] | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found now, and what was found before about the same model and was not measured again.

    The suite's mean goes if one of its tasks is replaced alone: it would be the mean of other figures.
    """
    if before is None or any(before.get(key) != found[key] for key in ("parameters", "tokenizer")):
        return dict(found)
    stale = {suite.NAME} if set(suite.METRICS) & set(found["results"]) else set()
    kept = {
        part: {name: entry for name, entry in before.get(part, {}).items() if name not in stale}
        for part in BY_NAME
        if part != "versions"
    }
    return {
        **found,
        **{part: {**entries, **found[part]} for part, entries in kept.items()},
        "versions": {**before["versions"], **found["versions"]},
    }
