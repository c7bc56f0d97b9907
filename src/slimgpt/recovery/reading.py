"""How a dense teacher reads what a model with fewer tokens is taught on.

Both spell a text by their own tokens. Where both have a border between tokens, the teacher's prediction is one for the
student too: a token that the student lacks counts for the token that the student begins its spelling with. Inside such
a token the teacher says nothing, and the student learns the text's own next token.

Borders are told by bytes. A row's text is read anew by the teacher, added tokens apart, which need no spelling.

Shapes: T tokens of the student · S of the teacher · D dense vocabulary.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slimgpt.recovery.packing import IGNORED, Row
from slimgpt.vocabulary.spec import Spec, spec_of

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
NOWHERE = -1


class Read(NamedTuple):
    """A row in the teacher's tokens, and for each of the student's T where the teacher has got as far (or NOWHERE)."""

    row: Row
    place_T: list[int]


class Reading:
    """A student's tokens and its teacher's.

    Args:
        student: its tokenizer.
        teacher: its tokenizer.
        old_ids: ids of the teacher by ids of the student.
    """

    def __init__(self, student: Any, teacher: Any, old_ids: Sequence[int]) -> None:
        self._student, self._teacher, self._old = student, teacher, old_ids
        ours, theirs = spec_of(student, "student"), spec_of(teacher, "teacher")
        self._added = ours.added
        self._our_bytes, self._their_bytes = _bytes_of(ours), _bytes_of(theirs)
        self.num_tokens = len(old_ids)
        self.first_D = _first(student, theirs, old_ids)
        """The student's id that begins the spelling of each of the teacher's; NOWHERE where there is no such token."""

    @property
    def identity(self) -> str:
        """Tells it from other readings."""
        return hashlib.sha256(self.first_D.numpy().tobytes()).hexdigest()

    def of(self, row: Row) -> Read:
        """A row as the teacher reads it."""
        ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        for example in _examples(row):
            began = len(ids)
            for is_added, run in groupby(example, self._added.__contains__):
                own = list(run)
                new, reached = self._added_run(own) if is_added else self._text_run(own)
                places += [place if place == NOWHERE else place + len(ids) for place in reached]
                ids += new
            positions += range(len(ids) - began)
        return Read(Row(ids, [IGNORED] * len(ids), positions), places)

    def _added_run(self, own: list[int]) -> tuple[list[int], list[int]]:
        return [self._old[index] for index in own], list(range(len(own)))

    def _text_run(self, own: list[int]) -> tuple[list[int], list[int]]:
        """The teacher's tokens of a text without added ones, and their place where they end with each of ours."""
        text = self._student.decode(own, clean_up_tokenization_spaces=False)
        theirs = self._teacher(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        our_ends, our_text = _ends([self._our_bytes[index] for index in own])
        their_ends, their_text = _ends([self._their_bytes[index] for index in theirs])
        place = {end: index for index, end in enumerate(their_ends)}
        same = _same(our_text, their_text)
        return theirs, [place.get(here, NOWHERE) if (here := same(end)) is not None else NOWHERE for end in our_ends]


def _examples(row: Row) -> Iterator[list[int]]:
    starts = [index for index, position in enumerate(row.positions) if position == 0]
    for start, stop in zip(starts, [*starts[1:], len(row.ids)], strict=True):
        yield row.ids[start:stop]


def _bytes_of(spec: Spec) -> dict[int, bytes]:
    """What each token adds to a text, in a form that is the same however a text is cut into tokens."""
    falls_back = not spec.is_byte_level
    return {
        index: bytes.fromhex(found[1]) if falls_back and (found := BYTE.fullmatch(token)) else token.encode()
        for token, index in spec.ids.items()
    }


def _first(student: Any, theirs: Spec, old_ids: Sequence[int]) -> Tensor:
    first_D = torch.full((max(*theirs.ids.values(), *old_ids) + 1,), NOWHERE)
    first_D[torch.tensor(old_ids)] = torch.arange(len(old_ids))
    model = student.backend_tokenizer.model
    for token, index in theirs.ids.items():
        if first_D[index] == NOWHERE and (pieces := model.tokenize(token)):
            first_D[index] = pieces[0].id
    return first_D


def _ends(pieces: Sequence[bytes]) -> tuple[list[int], bytes]:
    ends, length = [], 0
    for piece in pieces:
        length += len(piece)
        ends.append(length)
    return ends, b"".join(pieces)


def _same(ours: bytes, theirs: bytes) -> Callable[[int], int | None]:
    """Places in one text -> in the other; None where they differ, as a character does that a row's edge has cut."""
    before, after = _alike(ours, theirs), _alike(ours[::-1], theirs[::-1])

    def place(end: int) -> int | None:
        if end <= before:
            return end
        return end + len(theirs) - len(ours) if len(ours) - end <= after else None

    return place


def _alike(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    if one == other:
        return len(one)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
