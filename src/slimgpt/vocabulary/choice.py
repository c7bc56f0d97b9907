"""Which tokens stay: those that always do, then the most frequent, each with all that it is merged from."""

from __future__ import annotations

from collections.abc import Mapping, Set

from slimgpt.errors import ConfigError
from slimgpt.vocabulary.ancestry import Ancestry


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

    def check(self, keep: int, multiple_of: int) -> None:
        """Raise ConfigError where ``keep`` rows are too few for what always stays, or as many as there are."""
        if keep < len(self.lasting):
            raise ConfigError(
                f"--keep {keep} is less than the {len(self.lasting)} tokens that stay in any case (bytes, digits, "
                "punctuation, added tokens, what the chat template writes)."
            )
        self._check_smaller(f"--keep {keep}", _rounded(keep, multiple_of), multiple_of)

    def most_frequent(self, counts: Mapping[int, int], keep: int, multiple_of: int) -> list[int]:
        """Rows in their order of before: ``keep`` of them, rounded up."""
        return self._filled(set(self.lasting), counts, _rounded(keep, multiple_of))

    def covering(self, counts: Mapping[int, int], coverage: float, multiple_of: int) -> list[int]:
        """Rows in their order of before: the fewest most frequent tokens that are ``coverage`` of all that was counted.

        Raises:
            ConfigError: that is all of them.
        """
        kept = set(self.lasting)
        still = coverage * sum(counts.values()) - sum(counts.get(token_id, 0) for token_id in kept)
        for token_id in self._ranked(counts):
            if still <= 0:
                break
            more = self._ancestry.with_parts(token_id) - kept
            still -= sum(counts.get(part, 0) for part in more)
            kept |= more
        num_rows = _rounded(len(kept), multiple_of)
        self._check_smaller(f"--coverage {coverage}", num_rows, multiple_of)
        return self._filled(kept, counts, num_rows)

    def _filled(self, kept: set[int], counts: Mapping[int, int], num_rows: int) -> list[int]:
        """The rows with the next tokens that fit, up to ``num_rows``."""
        for token_id in self._ranked(counts):
            if len(kept) == num_rows:
                break
            more = self._ancestry.with_parts(token_id) - kept
            if len(kept) + len(more) <= num_rows:
                kept |= more
        return sorted([*kept, *self._unused[: num_rows - len(kept)]])

    def _ranked(self, counts: Mapping[int, int]) -> list[int]:
        """Tokens from the most frequent down; of equals, the one with the lower id first."""
        return sorted(self._tokens, key=lambda token_id: -counts.get(token_id, 0))

    def _check_smaller(self, asked: str, num_rows: int, multiple_of: int) -> None:
        if num_rows >= self._num_rows:
            rounded = f", rounded up to a multiple of {multiple_of}" if multiple_of > 1 else ""
            raise ConfigError(
                f"{asked} keeps {num_rows} rows{rounded}, and the embedding has {self._num_rows}: none would go."
            )


def _rounded(num: int, multiple_of: int) -> int:
    return -(-num // multiple_of) * multiple_of
