"""Texts with the flaws that real ones have: typing mistakes, odd capitals, words out of order.

A corruption is one function of a text and a random generator; the same seed makes the same text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

TYPO_RATE = 0.1  # of the words
CASE_RATE = 0.3  # of the words
SHUFFLED_RUN = 4  # words in a row that change places

WORD = re.compile(r"\S+")


def typos(text: str, chance: random.Random) -> str:
    """In some words of three characters or more, one is left out, doubled, or swapped with the next."""

    def mistype(found: re.Match[str]) -> str:
        word = found[0]
        if len(word) < 3 or chance.random() >= TYPO_RATE:
            return word
        at = chance.randrange(len(word) - 1)
        left, here, after, right = word[:at], word[at], word[at + 1], word[at + 2 :]
        return left + chance.choice((after, here + here + after, after + here)) + right

    return WORD.sub(mistype, text)


def case(text: str, chance: random.Random) -> str:
    """Some words change capitals for small letters and the other way round."""
    return WORD.sub(lambda found: found[0].swapcase() if chance.random() < CASE_RATE else found[0], text)


def shuffled_words(text: str, chance: random.Random) -> str:
    """Every few words in a row change places; the space between words stays as it was."""
    words = WORD.findall(text)
    runs = [words[start : start + SHUFFLED_RUN] for start in range(0, len(words), SHUFFLED_RUN)]
    for run in runs:
        chance.shuffle(run)
    shuffled = iter([word for run in runs for word in run])
    return WORD.sub(lambda found: next(shuffled), text)


CORRUPTIONS: dict[str, Callable[[str, random.Random], str]] = {
    "typos": typos,
    "case": case,
    "shuffled-words": shuffled_words,
}


def corrupt(text: str, name: str, seed: int) -> str:
    """``text`` after one of :data:`CORRUPTIONS`."""
    return CORRUPTIONS[name](text, random.Random(f"{seed} {name}"))
