"""What the card says of the proof that its folder has passed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CACHED = {
    "cache": ", and it generates the same with a cache as without",
    "source_cache": (
        "; with a cache it generates from other logits than without, as the model that it was made from does"
    ),
}
"""What is said of generation, by what was compared."""


def checked(record: Mapping[str, Any]) -> str:
    """A paragraph; nothing in records of earlier builds. No measured figures: the same run writes the same card."""
    proof = record.get("proof")
    if proof is None:
        return ""
    cached = next((said for key, said in CACHED.items() if key in proof["differences"]), "")
    return f"""
Before this folder got its name it was opened by transformers {_version(record)} as `{proof["class"]}`:
{proof["tensors"]:,} tensors have the names and shapes that `config.json` calls for, the tokenizer is the same, and
the logits of {proof["tokens"]:,} tokens ({proof["forward"]}, {proof["dtype"]}) are within {proof["tolerance"]:.1%} of
their range of those that were computed while it was made{cached}.
"""


def _version(record: Mapping[str, Any]) -> str:
    """Of the command that came last."""
    last = record["recovery"][-1] if record.get("recovery") else record
    return str(last["versions"]["transformers"])
