"""Whether text begins with a beginning-of-sequence token (BOS): one rule wherever a model reads text.

A model that was trained to see the token in front of every text runs far from itself without it, and one that was not
has never seen it. Which of the two a model is, its tokenizer says by what it adds by itself.
"""

from __future__ import annotations

from typing import Any

from slimgpt.errors import ConfigError

AUTO, ALWAYS, NEVER = "auto", "always", "never"


def adds_bos(tokenizer: Any) -> bool:
    """The tokenizer puts its BOS token in front of a text by itself."""
    bos = tokenizer.bos_token_id
    dressed, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    return bos is not None and dressed[:1] == [bos] and bare[:1] != [bos]


def first_tokens(tokenizer: Any, bos: str) -> list[int]:
    """What stands in front of a text: the BOS token, or nothing.

    Args:
        tokenizer: the model's.
        bos: auto does what the tokenizer does by itself; always and never do that.

    Raises:
        ConfigError: the token is asked for, and the tokenizer has none.
    """
    if bos == NEVER or (bos == AUTO and not adds_bos(tokenizer)):
        return []
    if tokenizer.bos_token_id is None:
        raise ConfigError("--bos: this tokenizer has no beginning-of-sequence token. Use --bos never.")
    return [int(tokenizer.bos_token_id)]


def bos_of(tokenizer: Any, bos: str) -> str | None:
    """The BOS token as text, where texts begin with it by the rule; for records and people."""
    return str(tokenizer.bos_token) if first_tokens(tokenizer, bos) else None
