"""Texts to counts of their tokens, and counts to weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
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


def count(source: Source, tokenizer: Any) -> Counter[int]:
    """How often each token stands in a text, without what a tokenizer adds around it."""
    counts: Counter[int] = Counter()
    documents = filter(None, source.documents(0))
    while some := list(islice(documents, DOCUMENTS)):
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            counts.update(ids)
    return counts


def weighed(counts: Sequence[Counter[int]]) -> dict[int, int]:
    """Shares of tokens in each text, added up over the texts and in whole numbers: a long text weighs no more than a
    short one, and of one text the counts themselves are the weights.
    """
    totals = [count.total() for count in counts]
    whole = math.lcm(*totals)
    weights: Counter[int] = Counter()
    for count, total in zip(counts, totals, strict=True):
        weights.update({token_id: number * (whole // total) for token_id, number in count.items()})
    return dict(weights)
