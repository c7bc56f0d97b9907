"""A text as one stream of tokens, cut into windows of which every token is predicted once.

Shapes: B windows · T tokens a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimgpt.calibration import files
from slimgpt.calibration.row_text import PLAIN, RowText
from slimgpt.calibration.sampling import DOCUMENT_BREAK
from slimgpt.config.paths import path_of
from slimgpt.errors import CalibrationError
from slimgpt.model.beginning import ALWAYS, AUTO, NEVER, first_tokens

TEXT = "text"
"""One BOS token in front of the whole text, beside what :mod:`slimgpt.model.beginning` knows."""


@dataclass(frozen=True)
class Windows:
    """Windows over a text, and which of their tokens count.

    Attributes:
        ids_BT: int64 token ids.
        num_first: the last tokens of the first window that count.
        num_new: the last tokens of every other window that count: the others were predicted before.
        stride: tokens from one window to the next.
        bos: where a beginning-of-sequence token stands: never, always (in front of each window) or text (in front of
            the whole text).
        num_last: the last tokens of the last window that count, where it overlaps the one before to end with the text.
    """

    ids_BT: Tensor
    num_first: int
    num_new: int
    stride: int
    bos: str
    num_last: int | None = None

    def counts_BT(self) -> Tensor:
        """True for every token that counts; the first of a window, which nothing predicts, never does."""
        num_windows, seqlen = self.ids_BT.shape
        new_B1 = torch.full((num_windows, 1), self.num_new)
        if self.num_last is not None:
            new_B1[-1] = self.num_last
        new_B1[0] = self.num_first
        return torch.arange(seqlen) >= seqlen - new_B1

    def num_bytes(self, tokenizer: Any) -> int:
        """UTF-8 bytes of the tokens that count, which are those of whole windows less those of their beginnings.

        So a space that a tokenizer drops in front of a text is dropped in both. A character cut in two by the edge of
        a window counts as the bytes of U+FFFD, which moves the sum by at most two bytes a window.
        """
        beginnings = [ids[~counts].tolist() for ids, counts in zip(self.ids_BT, self.counts_BT(), strict=True)]
        return _bytes(tokenizer, self.ids_BT.tolist()) - _bytes(tokenizer, beginnings)


def _bytes(tokenizer: Any, ids: list[list[int]]) -> int:
    return sum(len(text.encode()) for text in tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False))


def read_text(path: str, text_of: RowText = PLAIN) -> str:
    """A UTF-8 text file as it is, or the documents of a table (JSONL, CSV, TSV, Parquet) with blank lines between them.

    Raises:
        CalibrationError: missing, empty, not UTF-8, neither text nor table, or without the column that holds the text.
    """
    file = path_of(path, "text")
    if not file.is_file():
        raise CalibrationError(f"text {path!r} does not exist: name a UTF-8 text file, or a table of texts.")
    if files.is_table(file):
        text = DOCUMENT_BREAK.join(document.strip("\n") for document in files.documents(file, text_of))
    else:
        text = _plain(file)
    if not text.strip():
        raise CalibrationError(f"text {path!r} is empty: name a text with something in it.")
    return text


def _plain(file: Path) -> str:
    files.require_known(file)
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"text {str(file)!r} is not UTF-8 (byte {error.start}): convert it first.") from error


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The text's tokens, without special ones."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return ids


def cut(
    tokenizer: Any,
    text: str,
    seqlen: int,
    stride: int | None = None,
    bos: str = AUTO,
    max_tokens: int | None = None,
    to_the_end: bool = False,
) -> Windows:
    """Cut the text into windows of ``seqlen`` tokens, ``stride`` apart; a last partial window is left out, or with
    ``to_the_end`` begins sooner, so that all tokenizers have read the same text.

    ``bos`` says which of them begin with a beginning-of-sequence token: with "always" it takes the first place of each
    window, with "auto" where the tokenizer adds it to a text by itself; with "text" it stands before the text.

    Raises:
        CalibrationError: the text is shorter than one window.
        ConfigError: ``bos`` is asked of a tokenizer that has no such token.
    """
    ids = token_ids(tokenizer, text)[:max_tokens]
    each = [] if bos == TEXT else first_tokens(tokenizer, bos)
    if bos == TEXT:
        ids = first_tokens(tokenizer, ALWAYS) + ids
    width = seqlen - len(each)
    if len(ids) < width:
        raise CalibrationError(
            f"the text has {len(ids)} tokens, less than one window of {seqlen}: give more text or a smaller --seqlen."
        )
    step = min(stride or seqlen, width)
    ids_BT = torch.tensor(ids, dtype=torch.int64).unfold(0, width, step)
    left = (len(ids) - width) % step if to_the_end else 0
    if left:
        ids_BT = torch.cat([ids_BT, torch.tensor([ids[-width:]])])
    ids_BT = torch.cat([torch.tensor(each, dtype=torch.int64).expand(len(ids_BT), -1), ids_BT], dim=1)
    stands = TEXT if bos == TEXT else ALWAYS if each else NEVER
    return Windows(ids_BT, seqlen - 1, min(step, seqlen - 1), stride or seqlen, stands, left or None)
