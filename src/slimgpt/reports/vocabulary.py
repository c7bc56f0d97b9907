"""What ``slimgpt trim`` shows when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimgpt.reports.loudness import out
from slimgpt.reports.memory import mebibytes


def print_trimmed(record: Mapping[str, Any]) -> None:
    """What went, how much longer the text becomes, and which files could not follow."""
    found, sizes, cost = record["vocabulary"], record["parameters"], record["cost"]
    out.print(
        f"{found['before']:,} → {found['after']:,} tokens, {sizes['before']:,} → {sizes['after']:,} parameters "
        f"({sizes['removed_ratio']:.2%} removed) in {sum(cost['seconds'].values()):.0f} s; peak memory "
        f"{mebibytes(cost['peak_host_bytes'])}."
    )
    out.print(
        f"The text is {_longer(found['text_tokens'])}; {found['coverage']:.3%} of its tokens were kept as they are."
    )
    if len(found["texts"]) > 1:
        out.print(*(f"{text['name']}: {_longer(text)}." for text in found["texts"]), sep="\n")
    if found["left_out"]:
        out.print(f"Left out, for they hold the vocabulary of before: {', '.join(found['left_out'])}.")


def _longer(tokens: Mapping[str, int]) -> str:
    """How many tokens a text takes now."""
    return f"{tokens['before']:,} → {tokens['after']:,} tokens ({tokens['after'] / tokens['before'] - 1:+.2%})"
