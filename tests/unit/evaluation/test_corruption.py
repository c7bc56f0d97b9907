"""Corrupted texts: the same for a seed, as much as was said, and no more."""

from __future__ import annotations

import pytest

from slimgpt.evaluation.corruption import CASE_RATE, CORRUPTIONS, SHUFFLED_RUN, TYPO_RATE, corrupt

TEXT = "A line of Words, 12 of them,  with two spaces.\n\n  Another line: þar sem orðin eru önnur.\n" * 40


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_seed_makes_one_text(name: str) -> None:
    assert corrupt(TEXT, name, 0) == corrupt(TEXT, name, 0)
    assert corrupt(TEXT, name, 0) != corrupt(TEXT, name, 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_something_changes_but_not_the_space_between_words(name: str) -> None:
    found = corrupt(TEXT, name, 0)
    assert found != TEXT
    assert [len(line.split()) for line in found.splitlines()] == [len(line.split()) for line in TEXT.splitlines()]
    assert found.count(" ") == TEXT.count(" ")


def test_typos_are_in_some_words_and_small() -> None:
    pairs = list(zip(TEXT.split(), corrupt(TEXT, "typos", 0).split(), strict=True))
    changed = [(before, after) for before, after in pairs if before != after]
    long = [before for before, _ in pairs if len(before) > 2]
    assert 0.5 * TYPO_RATE < len(changed) / len(long) < 1.2 * TYPO_RATE
    for before, after in changed:
        assert len(before) > 2
        assert abs(len(before) - len(after)) <= 1
        assert sorted(set(after)) == sorted(set(before)) or len(after) < len(before)


def test_case_keeps_the_letters() -> None:
    found = corrupt(TEXT, "case", 0)
    assert found.casefold() == TEXT.casefold()
    changed = [before != after for before, after in zip(TEXT.split(), found.split(), strict=True)]
    assert 0.6 * CASE_RATE < sum(changed) / len(changed) < 1.2 * CASE_RATE


def test_shuffled_words_stay_near() -> None:
    before, after = TEXT.split(), corrupt(TEXT, "shuffled-words", 0).split()
    for start in range(0, len(before), SHUFFLED_RUN):
        run = slice(start, start + SHUFFLED_RUN)
        assert sorted(before[run]) == sorted(after[run])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_texts_without_words_stay_as_they_are(name: str) -> None:
    assert corrupt("", name, 0) == ""
    assert corrupt(" \n ", name, 0) == " \n "
