"""What ``slimgpt trim`` shows when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimgpt.reports.loudness import out
from slimgpt.reports.memory import mebibytes


def print_trimmed(record: Mapping[str, Any]) -> None:
    """What went, how much longer the text becomes, and which files could not follow."""
    found, sizes, cost = record["vocabulary"], record["parameters"], record["cost"]
    tokens = found["text_tokens"]
    out.print(
        f"{found['before']:,} → {found['after']:,} tokens, {sizes['before']:,} → {sizes['after']:,} parameters "
        f"({sizes['removed_ratio']:.2%} removed) in {sum(cost['seconds'].values()):.0f} s; peak memory "
        f"{mebibytes(cost['peak_host_bytes'])}."
    )
    out.print(
        f"The text is {tokens['before']:,} → {tokens['after']:,} tokens "
        f"({tokens['after'] / tokens['before'] - 1:+.2%}); {found['coverage']:.3%} of its tokens were kept as they are."
    )
    if found["left_out"]:
        out.print(f"Left out, for they hold the vocabulary of before: {', '.join(found['left_out'])}.")
