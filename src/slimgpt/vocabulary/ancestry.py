"""What a token is merged from.

BPE merges the neighbours of lowest rank first. Within a text, the merges inside what becomes one token come in the same
order as if the token stood alone: none of them reaches over its borders. So a token is still found wherever it was, if
the tokens on its own way up are still there. Added tokens are found before anything is merged, and need none.
"""

from __future__ import annotations

from collections.abc import Iterable

from slimgpt.vocabulary.spec import Spec


class Ancestry:
    """Ids of the tokens that each token is merged from."""

    def __init__(self, spec: Spec) -> None:
        self._rank = {pair: rank for rank, pair in reversed(list(enumerate(spec.merges)))}
        self._ids = spec.model["vocab"]
        self._token = {index: token for token, index in self._ids.items() if index not in spec.added}
        self._known: dict[int, frozenset[int]] = {}

    def with_parts(self, token_id: int) -> frozenset[int]:
        """The token itself and all on its way up."""
        if token_id not in self._known:
            token = self._token.get(token_id)
            parts = {self._ids[part] for part in self._way_up(token) if part in self._ids} if token else set()
            self._known[token_id] = frozenset(parts | {token_id})
        return self._known[token_id]

    def closed(self, token_ids: Iterable[int]) -> set[int]:
        """These tokens and all on their ways up."""
        return {part for token_id in token_ids for part in self.with_parts(token_id)}

    def _way_up(self, token: str) -> set[str]:
        """Every piece that stands there from single characters to the token, or as far as merges lead."""
        pieces = list(token)
        seen = set(pieces)
        while (place := self._next(pieces)) is not None:
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
            seen.add(pieces[place])
        return seen

    def _next(self, pieces: list[str]) -> int | None:
        """Where the first pair of lowest rank stands."""
        ranked = [
            (rank, place)
            for place in range(len(pieces) - 1)
            if (rank := self._rank.get((pieces[place], pieces[place + 1]))) is not None
        ]
        return min(ranked)[1] if ranked else None
