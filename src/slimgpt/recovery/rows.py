"""From files to the rows that are trained on, and to those that are set aside to measure with."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor

from slimgpt.config import RecoverConfig
from slimgpt.errors import CalibrationError
from slimgpt.model.beginning import first_tokens
from slimgpt.recovery.data import Example, joined, read_examples
from slimgpt.recovery.packing import Row, pack, tokenise

MOST_HELD_OUT = 64  # rows: enough to tell checkpoints of one run apart, which see the same ones


def build(config: RecoverConfig, tokenizer: Any, packing: bool) -> tuple[list[Row], list[Row]]:
    """Rows to train on, in random order, and rows set aside; no example is in both.

    With ``--mix`` both hold the second file's rows in its share, as far as it has enough.

    Raises:
        CalibrationError: a file cannot be read, has too few examples, or no response that fits into a row.
    """
    train, held_out = _of_file(config.data, config, tokenizer, packing)
    if config.mix is not None:
        more, more_held_out = _of_file(config.mix, config, tokenizer, packing)
        train = train + _share(more, len(train), config.mix_share)
        held_out = held_out + _share(more_held_out, len(held_out), config.mix_share)
    random.Random(config.seed).shuffle(train)
    if config.max_steps:
        train = train[: math.ceil(config.max_steps * config.batch_size / max(1, config.epochs))]
    return train, held_out


def longest(rows: list[Row], count: int) -> Tensor:
    """The tokens of the longest rows, B x T int64, cut to the shortest of them."""
    chosen = sorted(rows, key=lambda row: len(row.ids), reverse=True)[:count]
    return torch.tensor([row.ids[: len(chosen[-1].ids)] for row in chosen])


def _share(rows: list[Row], beside: int, share: float) -> list[Row]:
    """As many rows as are ``share`` of the whole beside ``beside`` others."""
    return rows[: round(beside * share / (1 - share))]


def _of_file(path: str, config: RecoverConfig, tokenizer: Any, packing: bool) -> tuple[list[Row], list[Row]]:
    examples = read_examples(path, tokenizer, config.text_field)
    random.Random(config.seed).shuffle(examples)
    if len(examples) < 2:
        raise CalibrationError(
            f"data {path!r} has one example, and one has to be set aside to measure with: give more."
        )
    num_held_out = max(1, round(config.held_out * len(examples)))
    held_out = _rows(examples[:num_held_out], config, tokenizer, packing)[:MOST_HELD_OUT]
    train = _rows(examples[num_held_out:], config, tokenizer, packing)
    if not (train and held_out):
        raise CalibrationError(
            f"data {path!r} has no response that begins within --seqlen {config.seqlen} tokens: raise it, or give more "
            "examples."
        )
    return train, held_out


def _rows(examples: list[Example], config: RecoverConfig, tokenizer: Any, packing: bool) -> list[Row]:
    if config.join_texts:
        examples = joined(examples)
    first = first_tokens(tokenizer, config.bos)
    rows = tokenise(examples, tokenizer, config.seqlen, config.loss_on == "all", first)
    return pack(rows, config.seqlen) if packing else rows
