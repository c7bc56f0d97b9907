"""Texts to counts of their tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from slimgpt.calibration.row_text import RowText
from slimgpt.calibration.sources import BUILTIN, Source, resolve
from slimgpt.errors import ConfigError

DOCUMENTS = 256  # that are encoded together


def sources_of(names: Sequence[str], text_field: str, tokenizer: Any) -> list[Source]:
    """What is counted.

    Raises:
        CalibrationError: there is no such file.
        ConfigError: it is a data set on the hub, which nobody can read to its end.
    """
    sources = [resolve(name, RowText(text_field, tokenizer)) for name in names]
    for name, source in zip(names, sources, strict=True):
        if not source.whole and name != BUILTIN:
            raise ConfigError(f"--text {name} is on the hub, and text is read whole: give a local file or folder.")
    return sources


def count(sources: Sequence[Source], tokenizer: Any) -> Counter[int]:
    """How often each token stands in the texts, without what a tokenizer adds around them."""
    counts: Counter[int] = Counter()
    documents = _documents(sources)
    while some := list(islice(documents, DOCUMENTS)):
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            counts.update(ids)
    return counts


def _documents(sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        yield from filter(None, source.documents(0))
