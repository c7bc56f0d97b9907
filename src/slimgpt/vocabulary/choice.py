"""Which tokens stay: those that always do, then the heaviest, each with all that it is merged from."""

from __future__ import annotations

from collections.abc import Mapping, Set
from fractions import Fraction

from slimgpt.errors import ConfigError
from slimgpt.vocabulary.ancestry import Ancestry

Weights = Mapping[int, int]
"""Of tokens by their ids; whole numbers, so that sums are exact on every machine."""


class Choice:
    """The rows of an embedding that stay, by their ids of before.

    Args:
        ancestry: what tokens are merged from.
        lasting: tokens that stay in any case.
        tokens: all tokens there are.
        num_rows: rows of the embedding; those that no token uses come last of all.
    """

    def __init__(self, ancestry: Ancestry, lasting: Set[int], tokens: Set[int], num_rows: int) -> None:
        self._ancestry = ancestry
        self._tokens = sorted(tokens)
        self._unused = sorted(set(range(num_rows)) - tokens)
        self._num_rows = num_rows
        self.lasting = ancestry.closed(lasting)

    def check(self, asked: str, num_rows: int) -> None:
        """Raise ConfigError where so many rows are too few for what always stays, or as many as there are.

        Args:
            asked: the option that came to ``num_rows``, for the message.
            num_rows: rows that stay.
        """
        if num_rows < len(self.lasting):
            raise ConfigError(
                f"{asked} keeps {max(0, num_rows)} rows, less than the {len(self.lasting)} tokens that stay in any "
                "case (bytes, digits, punctuation, added tokens, what the chat template writes)."
            )
        if num_rows >= self._num_rows:
            raise ConfigError(f"{asked} keeps {num_rows} rows, and the embedding has {self._num_rows}: none would go.")

    def heaviest(self, weights: Weights, num_rows: int) -> list[int]:
        """So many rows, in their order of before."""
        return self._filled(set(self.lasting), weights, num_rows)

    def covering(self, weights: Weights, coverage: float) -> int:
        """Rows that the fewest tokens take which are ``coverage`` of all weight."""
        kept = set(self.lasting)
        still = Fraction(str(coverage)) * sum(weights.values()) - sum(weights.get(token_id, 0) for token_id in kept)
        for token_id in self._ranked(weights):
            if still <= 0:
                break
            more = self._ancestry.with_parts(token_id) - kept
            still -= sum(weights.get(part, 0) for part in more)
            kept |= more
        return len(kept)

    def _filled(self, kept: set[int], weights: Weights, num_rows: int) -> list[int]:
        """The rows with the next tokens that fit, up to ``num_rows``."""
        for token_id in self._ranked(weights):
            if len(kept) == num_rows:
                break
            more = self._ancestry.with_parts(token_id) - kept
            if len(kept) + len(more) <= num_rows:
                kept |= more
        return sorted([*kept, *self._unused[: num_rows - len(kept)]])

    def _ranked(self, weights: Weights) -> list[int]:
        """Tokens from the heaviest down; of equals, the one with the lower id first."""
        return sorted(self._tokens, key=lambda token_id: -weights.get(token_id, 0))
