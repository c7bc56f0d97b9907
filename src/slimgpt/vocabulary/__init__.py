"""trim(): a model whose vocabulary holds only what a text uses.

    texts ──counting──▶ weights ──choice──▶ rows that stay ──renumber──▶ tokenizer
                                                           ──rows──────▶ embedding, head, configuration

Comes in: a model and texts. Goes out: a model with fewer tokens, which still writes any text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from slimgpt.calibration.sources import Source
from slimgpt.config import TrimConfig
from slimgpt.errors import CalibrationError
from slimgpt.machine.clock import Clock
from slimgpt.machine.versions import versions
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.model.schema import SCHEMA
from slimgpt.output import assembly, record_file
from slimgpt.output.place import Place
from slimgpt.output.written import Written
from slimgpt.proof import Witness, prove
from slimgpt.streaming.observer import StreamObserver
from slimgpt.vocabulary.ancestry import Ancestry
from slimgpt.vocabulary.choice import Choice
from slimgpt.vocabulary.counting import count, sources_of, weighed
from slimgpt.vocabulary.folder import assemble
from slimgpt.vocabulary.lasting import lasting_ids
from slimgpt.vocabulary.renumber import new_ids, smaller_tokenizer
from slimgpt.vocabulary.rows import tables
from slimgpt.vocabulary.size import asked_size, covering_size
from slimgpt.vocabulary.spec import Spec, spec_of
from slimgpt.vocabulary.witness import CPU, dense_witness

__all__ = ["TrimResult", "trim"]


class TrimResult(Written):
    """The model with fewer tokens."""


@dataclass(frozen=True)
class _Job:
    """A run after all its checks."""

    config: TrimConfig
    checkpoint: Checkpoint
    tokenizer: Any
    spec: Spec
    choice: Choice
    tables: Sequence[str]
    sources: Sequence[Source]
    place: Place


@dataclass(frozen=True)
class _Trimmed:
    """What was chosen: ids of before by ids of now, the tokenizer, and what each text is in either."""

    kept: list[int]
    tokenizer: Any
    before: list[Counter[int]]
    after: list[Counter[int]]


def trim(config: TrimConfig, observer: StreamObserver | None = None) -> TrimResult:
    """Make a model with fewer tokens: check everything, count the text's tokens, write the rows that stay.

    Raises:
        SlimGPTError: something the user can mend; raised before any work wherever that is possible.
    """
    clock, observer = Clock(), observer or StreamObserver()
    with clock.timed("prepare"):
        job = _prepare(config)
    with job.place.work(config.force) as folder:
        observer.stage("reading the text")
        with clock.timed("choose"):
            trimmed = _choose(job)
        observer.stage("writing")
        with clock.timed("write"):
            names = (job.tables, trimmed.kept, trimmed.tokenizer)
            num_params, left_out = assemble(job.place.finished, folder, job.checkpoint, *names)
        with clock.timed("prove"):
            proof = prove(job.place.finished, _witness(job, trimmed), trimmed.tokenizer, None)
        record = {**_record(job, trimmed, num_params, left_out, clock), "proof": proof}
        whole = record_file.publish(job.place, record)
    return TrimResult(job.place.out, whole)


def _prepare(config: TrimConfig) -> _Job:
    config.check()
    checkpoint = open_checkpoint(config.model)
    place = Place(config.out)
    place.check(checkpoint.path, checkpoint.num_params * checkpoint.dtype.itemsize, config.force)
    tokenizer = checkpoint.tokenizer()
    spec, names = spec_of(tokenizer, checkpoint.source), tables(checkpoint)
    tokens = {index for index in spec.ids.values() if index < checkpoint.vocabulary}
    choice = Choice(Ancestry(spec), lasting_ids(checkpoint, tokenizer, spec), tokens, checkpoint.vocabulary)
    if (size := asked_size(config, checkpoint, names)) is not None:
        choice.check(*size)
    sources = sources_of(config.text, config.text_field, tokenizer)
    return _Job(config, checkpoint, tokenizer, spec, choice, names, sources, place)


def _choose(job: _Job) -> _Trimmed:
    """Count, and choose by it."""
    before = _counted(job, job.tokenizer)
    for name, counts in zip(job.config.text, before, strict=True):
        if not counts:
            raise CalibrationError(f"--text {name} holds no text: there is nothing to choose by.")
    weights = weighed(before)
    size = asked_size(job.config, job.checkpoint, job.tables) or covering_size(job.config, job.choice, weights)
    job.choice.check(*size)
    kept = job.choice.heaviest(weights, size.num_rows)
    tokenizer = smaller_tokenizer(job.tokenizer, job.spec, job.checkpoint.config, new_ids(kept))
    return _Trimmed(kept, tokenizer, before, _counted(job, tokenizer))


def _counted(job: _Job, tokenizer: Any) -> list[Counter[int]]:
    return [count(source, tokenizer) for source in job.sources]


def _witness(job: _Job, trimmed: _Trimmed) -> Witness:
    return dense_witness(job.checkpoint, trimmed.tokenizer, torch.tensor(trimmed.kept))


def _record(job: _Job, trimmed: _Trimmed, num_params: int, left_out: Sequence[str], clock: Clock) -> dict[str, Any]:
    checkpoint, weights = job.checkpoint, weighed(trimmed.before)
    before, after = (sum(counts.total() for counts in texts) for texts in (trimmed.before, trimmed.after))
    return {
        "schema": SCHEMA,
        "kind": "trim",
        **record_file.provenance(checkpoint),
        "options": asdict(job.config),
        "versions": versions(),
        "parameters": record_file.sizes(checkpoint.num_params, num_params, num_params * checkpoint.dtype.itemsize),
        "vocabulary": {
            "before": checkpoint.vocabulary,
            "after": len(trimmed.kept),
            "lasting": len(job.choice.lasting),
            "coverage": sum(weights.get(old, 0) for old in trimmed.kept) / sum(weights.values()),
            "text_tokens": {"before": before, "after": after},
            "texts": [
                {"name": name, "before": old.total(), "after": new.total()}
                for name, old, new in zip(job.config.text, trimmed.before, trimmed.after, strict=True)
            ],
            "left_out": list(left_out),
            "old_ids": trimmed.kept,
        },
        "layout": "per-layer" if assembly.is_per_layer(checkpoint.config) else "uniform",
        "cost": record_file.cost(clock, CPU),
    }
