"""One evaluation from options to results: everything that can be refused is refused before the weights are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.calibration.row_text import RowText
from slimgpt.config import EvalConfig
from slimgpt.errors import ConfigError
from slimgpt.evaluation import compare, harness, results, suite
from slimgpt.evaluation.likelihood import Perplexity, both_ways, check_vocabulary, measure
from slimgpt.evaluation.windows import TEXT, Windows, cut, read_text
from slimgpt.machine import devices
from slimgpt.model.beginning import ALWAYS, NEVER, first_tokens
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.checks import check_context
from slimgpt.model.loading import load_model
from slimgpt.model.quantisation import quantise_, require_library
from slimgpt.output import measurements
from slimgpt.output.single_file import single_file
from slimgpt.streaming import other_way


class EvalObserver:
    """Hears what an evaluation is doing; this one does nothing with it."""

    def said(self, text: str) -> None:
        """Something that people should know beside the results."""

    def stage(self, name: str, num_tokens: int | None = None) -> None:
        """Something begins, over ``num_tokens`` tokens where that is known."""

    def tokens(self, count: int) -> None:
        """``count`` more tokens are done."""

    def pause(self) -> None:
        """The harness shows its own progress from here to the next stage."""


@dataclass(frozen=True)
class EvalResult:
    """What was found.

    Attributes:
        found: the content of eval.json.
        comparison: the content of compare.json; None if no other model was named.
    """

    found: dict[str, Any]
    comparison: dict[str, Any] | None


@dataclass(frozen=True)
class _Job:
    config: EvalConfig
    checkpoint: Checkpoint
    text: str
    windows: dict[str, Windows]
    against: Checkpoint | None
    tasks: harness.Loaded | None
    tokenizer_hash: str


def evaluate(config: EvalConfig, observer: EvalObserver | None = None) -> EvalResult:
    """Measure a model as the options say, and write what is found where they say.

    Raises:
        SlimGPTError: the first thing that is wrong.
    """
    with single_file(config.json) as file, single_file(config.compare_json, "--compare-json") as compared:
        result = _evaluated(config, observer or EvalObserver())
        if config.record:
            _keep(measurements.require_run(config.model), result)
        file.write_json(result.found)
        if result.comparison is not None:
            compared.write_json(result.comparison)
    return result


def _evaluated(config: EvalConfig, observer: EvalObserver) -> EvalResult:
    job = _prepare(config, observer)
    observer.stage("loading the model")
    model, tokenizer = load_model(config.model, config.device)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    zeros = num_parameters - sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    quantised = quantise_(model, config.quantise) if config.quantise is not None else None
    _note_other_way(job, model, tokenizer, observer)
    perplexities = _perplexities(job, model, tokenizer, observer)
    tasks = _tasks(job, model, tokenizer, observer)
    conditions = _conditions(config, model, tokenizer)
    found = results.assemble(
        {
            "model": config.model,
            "parameters": num_parameters,
            "zeros": zeros,
            "tokenizer": job.tokenizer_hash,
            "quantisation": quantised.record() if quantised else None,
        },
        conditions,
        perplexities,
        tasks,
        with_suite=config.suite is not None,
    )
    found = json.loads(json.dumps(found, default=str))  # the harness keeps functions of task files among its results
    comparison = _comparison(job, model, tokenizer, conditions, observer) if job.against else None
    return EvalResult(found, comparison)


def _prepare(config: EvalConfig, observer: EvalObserver) -> _Job:
    config.check()
    devices.pick_device(config.device)
    if config.quantise is not None:
        require_library(config.quantise)
    if config.record:
        measurements.require_run(config.model)
    checkpoint = open_checkpoint(config.model)
    tokenizer = checkpoint.tokenizer()
    text = read_text(config.text, RowText(config.text_field, tokenizer)) if config.text is not None else ""
    tokenizer_hash = results.tokenizer_hash(tokenizer)
    windows = _windows(config, checkpoint, tokenizer, text)
    against = _opened(config, config.against, tokenizer_hash) if config.against is not None else None
    names = (*(suite.METRICS if config.suite else ()), *config.tasks)
    if names:
        observer.stage("reading tasks")
    tasks = harness.load(names, config.task_dir, config.task_data) if names else None
    return _Job(config, checkpoint, text, windows, against, tasks, tokenizer_hash)


def _windows(config: EvalConfig, checkpoint: Checkpoint, tokenizer: Any, text: str) -> dict[str, Windows]:
    """The text's windows at every length, by the names of their results."""
    if config.text is None:
        return {}
    for seqlen in config.seqlen:
        check_context(checkpoint.config, seqlen)
    return {
        f"{Path(config.text).stem}@{seqlen}": cut(tokenizer, text, seqlen, config.stride, config.bos, config.max_tokens)
        for seqlen in dict.fromkeys(config.seqlen)
    }


def _opened(config: EvalConfig, against: str, tokenizer_hash: str) -> Checkpoint:
    """The model to compare with, if the comparison means something."""
    checkpoint = open_checkpoint(against)
    check_context(checkpoint.config, max(config.seqlen))
    if config.against_by == "token" and results.tokenizer_hash(checkpoint.tokenizer()) != tokenizer_hash:
        raise ConfigError(
            f"{config.model} and {against} have different tokenizers: perplexity, and whatever else goes by token, "
            "cannot be compared. Bits per byte can: add --against-by byte."
        )
    return checkpoint


def _note_other_way(job: _Job, model: Any, tokenizer: Any, observer: EvalObserver) -> None:
    """Say where the model would read the text much better with a BOS token, or without."""
    token = tokenizer.bos_token_id
    if token is None or token >= model.get_input_embeddings().weight.shape[0]:
        return
    for windows in list(job.windows.values())[-1:]:
        ids_BT = windows.ids_BT[: other_way.WINDOWS, 1 : 1 + other_way.TOKENS]  # without a token in front
        check_vocabulary(model, ids_BT)
        if ids_BT.shape[1] > 1:
            without, behind = both_ways(model, ids_BT, token)
            said = other_way.told(without, behind, str(tokenizer.bos_token), windows.bos == ALWAYS)
            if said is not None:
                observer.said(said)


def _perplexities(job: _Job, model: Any, tokenizer: Any, observer: EvalObserver) -> dict[str, Perplexity]:
    found = {}
    for name, windows in job.windows.items():
        observer.stage(f"perplexity, {name}", windows.ids_BT.numel())
        found[name] = measure(model, tokenizer, windows, job.config.batch_size, observer.tokens)
    return found


def _tasks(job: _Job, model: Any, tokenizer: Any, observer: EvalObserver) -> dict[str, Any] | None:
    if job.tasks is None:
        return None
    config = job.config
    observer.pause()
    return harness.run(
        model,
        tokenizer,
        job.tasks,
        limit=config.limit,
        num_fewshot=config.num_fewshot,
        batch_size=config.batch_size,
    )


def _conditions(config: EvalConfig, model: Any, tokenizer: Any) -> dict[str, Any]:
    """What holds for all entries."""
    bos = TEXT if config.bos == TEXT else ALWAYS if first_tokens(tokenizer, config.bos) else NEVER
    return {
        "text": config.text,
        "max_tokens": config.max_tokens,
        "bos": bos,
        "limit": config.limit,
        "num_fewshot": config.num_fewshot,
        "batch_size": config.batch_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": devices.device_name(model.device),
    }


def _comparison(
    job: _Job, model: Any, tokenizer: Any, conditions: dict[str, Any], observer: EvalObserver
) -> dict[str, Any]:
    """The content of compare.json: the longest windows, over the beginning of the text."""
    config, seqlen = job.config, max(job.config.seqlen)
    assert job.against is not None and config.against is not None
    observer.stage("loading the model to compare with")
    ours = compare.Model(model, tokenizer, _layer_names(job.checkpoint))
    theirs = compare.Model(*load_model(config.against, config.device), _layer_names(job.against))
    num_tokens = max(seqlen, min(compare.NUM_TOKENS, config.max_tokens or compare.NUM_TOKENS))
    tokens = compare.TokenComparison()
    if config.against_by == "token":
        observer.stage("comparing layers and predictions")
        windows = cut(tokenizer, job.text, seqlen, bos=config.bos, max_tokens=num_tokens)
        tokens = compare.compare_tokens(ours, theirs, windows, config.batch_size)
    text, by_byte = compare.beginning(tokenizer, job.text, num_tokens), config.against_by == "byte"
    how = (config.seed, config.batch_size, observer.stage, config.bos, by_byte)
    rows = compare.robustness(ours, theirs, text, seqlen, *how)
    observer.stage("sample generations")
    return {
        "kind": "compare",
        "schema": results.SCHEMA,
        "model": config.model,
        "against": config.against,
        "date": results.now(),
        "versions": results.library_versions(),
        "settings": {**conditions, "seqlen": seqlen, "num_tokens": num_tokens, "seed": config.seed},
        **tokens.figures(),
        "robustness": rows,
        "samples": compare.samples(ours, theirs, job.text),
    }


def _layer_names(checkpoint: Checkpoint) -> list[str]:
    return [checkpoint.layer_prefix(index).removesuffix(".") for index in range(len(checkpoint.layers))]


def _keep(folder: Path, result: EvalResult) -> None:
    before = measurements.read(folder).get("eval")
    measurements.keep(folder, "eval", results.merge(before, result.found))
    if result.comparison is not None:
        measurements.keep(folder, "compare", result.comparison)
