"""Examples to rows of tokens: several examples in one row, each as if it were alone.

Positions start at 0 with every example, and no attention mask is given: transformers takes such positions for packed
sequences and lets no token see another example's, in all families but those that say so (``Family.packs``), whose rows
hold one example each. Padding is one more example that nobody learns, at the row's end.

Shapes: B rows · T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slimgpt.recovery.data import Example

IGNORED = -100  # what transformers' losses leave out
OPEN_ROWS = 64  # rows that may still take a short example: more would pack little tighter and slower


class Row(NamedTuple):
    """Tokens, what is learned of them (IGNORED elsewhere), and their positions within their examples."""

    ids: list[int]
    labels: list[int]
    positions: list[int]


def tokenise(
    examples: Iterable[Example], tokenizer: Any, seqlen: int, all_tokens: bool, first: Sequence[int] = ()
) -> list[Row]:
    """Rows of one example each, at most ``seqlen`` tokens long.

    Plain text is cut into as many as it fills, instructions are cut off; what has no token to learn is left out. Every
    row begins with ``first``, unless a chat template has written it already; a dialogue ends with EOS where there is
    one.
    """
    beginning = list(first)
    ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows: list[Row] = []
    for example in examples:
        ids: list[int] = []
        labels: list[int] = []
        for piece in example.pieces:
            # verbose=False: texts may be longer than the model's context, rows are not
            new = tokenizer(piece.text, add_special_tokens=False, return_attention_mask=False, verbose=False)
            ids += new["input_ids"]
            labels += new["input_ids"] if piece.learned or all_tokens else [IGNORED] * len(new["input_ids"])
        if example.dialogue:  # chat templates write their own beginnings and ends
            ends = [] if ids[-1:] == ending else ending
            begins = [] if ids[:1] == beginning else beginning
            rows += _cut(ids + ends, labels + ends, seqlen, begins, only_first=True)
        else:
            rows += _cut(ids, labels, seqlen, beginning, only_first=False)
    return rows


def _cut(ids: list[int], labels: list[int], seqlen: int, begins: list[int], only_first: bool) -> Iterable[Row]:
    """The first token of a row has no context, so nothing predicts it."""
    width = seqlen - len(begins)
    for start in range(0, min(len(ids), width) if only_first else len(ids), width):
        part = [IGNORED] * len(begins) + labels[start : start + width]
        if any(label != IGNORED for label in part[1:]):
            yield Row(begins + ids[start : start + width], [IGNORED, *part[1:]], list(range(len(part))))


def pack(rows: Sequence[Row], seqlen: int) -> list[Row]:
    """Join short rows, each into the first that has room, in their order."""
    packed: list[Row] = []
    open_rows: list[int] = []
    for row in rows:
        place = next((i for i in open_rows if len(packed[i].ids) + len(row.ids) <= seqlen), None)
        if place is None:
            packed.append(Row(*map(list, row)))
            open_rows = [*open_rows[-OPEN_ROWS + 1 :], len(packed) - 1]
        else:
            packed[place] = Row(*(have + new for have, new in zip(packed[place], row, strict=True)))
    return packed


def collate(rows: Sequence[Row], length: int = 0) -> dict[str, Tensor]:
    """A batch for a causal LM, ``input_ids``, ``labels`` and ``position_ids`` (B x T), padded to its longest row, or to
    ``length`` where that is more."""
    length = max(length, *(len(row.ids) for row in rows))
    return {
        "input_ids": _padded([row.ids for row in rows], lambda missing: [0] * missing, length),
        "labels": _padded([row.labels for row in rows], lambda missing: [IGNORED] * missing, length),
        "position_ids": _padded([row.positions for row in rows], lambda missing: list(range(missing)), length),
    }


def _padded(lists: list[list[int]], padding: Any, length: int) -> Tensor:
    return torch.tensor([values + padding(length - len(values)) for values in lists])


def learned(labels_BT: Tensor) -> Tensor:
    """bool, B x (T−1): True at the positions whose next token is learned."""
    return labels_BT[:, 1:] != IGNORED


def num_learned(row: Row) -> int:
    """Tokens of a row that are learned."""
    return sum(label != IGNORED for label in row.labels[1:])
