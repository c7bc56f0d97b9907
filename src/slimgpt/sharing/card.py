"""A run's card with what the hub reads of it: base model, licence, tags, and measurements as a model index.

Form: https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from slimgpt.errors import ModelError, last_line
from slimgpt.machine.json_files import read_object
from slimgpt.model.schema import RECORD
from slimgpt.output import measurements

BETTER = ("acc_norm", "acc", "exact_match")
"""Metrics of tasks, the first that a task has."""


def with_metadata(folder: Path, name: str, base_model: str | None, licence: str | None) -> str:
    """The card of the run in ``folder``, for a repository called ``name``.

    Raises:
        ModelError: the record or a measurement is damaged.
    """
    card = ModelCard(measurements.card_of(folder), ignore_metadata_errors=True)
    source = str(read_object(folder / RECORD)["source"])
    base = base_model or (source if _is_hub_id(source) else None)
    known = {**card.data.to_dict(), "base_model": base, "license": licence or _licence_of(source, base)}
    found = measurements.read(folder).get("eval")
    try:
        results = {"model_name": name, "eval_results": [*_results(found)]} if found else {}
        card.data = ModelCardData(**{key: value for key, value in (known | results).items() if value is not None})
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}/{measurements.FOLDER}/eval.json is damaged ({last_line(error)}).") from error
    return str(card)


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).exists()


def _licence_of(source: str, base: str | None) -> str | None:
    """What the dense model's card says; None where nothing can be read."""
    local = Path(source).expanduser() / measurements.CARD
    try:
        if local.is_file():
            return ModelCard.load(local, ignore_metadata_errors=True).data.license
        return ModelCard.load(base, ignore_metadata_errors=True).data.license if base else None
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None


def _results(found: Mapping[str, Any]) -> Iterator[EvalResult]:
    for name, entry in found["results"].items():
        if "perplexity,none" in entry:
            yield _result(name, "perplexity", entry["perplexity,none"])
        else:
            metrics = {key.split(",")[0]: value for key, value in entry.items() if isinstance(value, (int, float))}
            metric = next((metric for metric in BETTER if metric in metrics), None)
            if metric is not None:
                yield _result(name, metric, metrics[metric])


def _result(dataset: str, metric: str, value: float) -> EvalResult:
    return EvalResult("text-generation", dataset, dataset, metric, round(float(value), 4))
