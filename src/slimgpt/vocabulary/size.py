"""How many rows stay: asked for as rows, as a share of the text, or as the parameters of the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slimgpt.config import TrimConfig
from slimgpt.config.target import count
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.vocabulary.choice import Choice, Weights
from slimgpt.vocabulary.rows import row_params


class Size(NamedTuple):
    """Rows that stay, and the option that came to them."""

    asked: str
    num_rows: int


def asked_size(config: TrimConfig, checkpoint: Checkpoint, tables: Sequence[str]) -> Size | None:
    """What the options say before any text is read; None where the text decides."""
    multiple = config.multiple_of
    if config.keep is not None:
        return _up(f"--keep {config.keep}", config.keep, multiple)
    if config.target_params is None:
        return None
    too_many = checkpoint.num_params - count(config.target_params)
    num_rows = checkpoint.vocabulary + -too_many // row_params(checkpoint, tables)
    rounded = f", rounded down to a multiple of {multiple}," if multiple > 1 else ""
    return Size(f"--target-params {config.target_params}{rounded}", num_rows // multiple * multiple)


def covering_size(config: TrimConfig, choice: Choice, weights: Weights) -> Size:
    """What the text says of ``--coverage``."""
    coverage = config.coverage or 1.0
    return _up(f"--coverage {coverage}", choice.covering(weights, coverage), config.multiple_of)


def _up(asked: str, num_rows: int, multiple: int) -> Size:
    rounded = f", rounded up to a multiple of {multiple}," if multiple > 1 else ""
    return Size(asked + rounded, -(-num_rows // multiple) * multiple)
