"""Which tokens of a dense model the tokens of a trimmed one are, by the records in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def old_ids(record: Mapping[str, Any] | None, tokenizer: Any, dense: Any) -> list[int] | None:
    """Ids in the tokenizer ``dense`` by ids in ``tokenizer``; None where no record tells of a trim between the two."""
    for found in _trims(record):
        if len(tokenizer) <= len(found) and _names(tokenizer, range(len(tokenizer))) == _names(dense, found):
            return found
    return None


def _trims(record: Mapping[str, Any] | None) -> Iterator[list[int]]:
    """The map of the last trim, then those of the trims before it as well, one after the other."""
    found: list[int] | None = None
    while record is not None:
        ids = record.get("vocabulary", {}).get("old_ids")
        if ids is not None:
            found = ids if found is None else [ids[index] for index in found]
            yield found
        record = record.get("before") if isinstance(record.get("before"), Mapping) else None


def _names(tokenizer: Any, ids: Any) -> dict[str, int]:
    """Tokens by their place; rows that no token uses are left out."""
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    return {known[index]: place for place, index in enumerate(ids) if index in known}
