"""Words for predicted times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def latency_line(found: Mapping[str, Any]) -> str:
    """What a plan's times are predicted to be."""
    decode, prefill = (found[f"{name}_ms"] for name in ("decode", "prefill"))
    return (
        f"Predicted: a token {_faster(decode)}, a prompt of {found['prompt_tokens']} tokens {_faster(prefill)}; by a "
        f"table measured on {found['device']} in {found['dtype']}."
    )


def _faster(ms: Mapping[str, float]) -> str:
    return f"{ms['before']:,.4g} → {ms['after']:,.4g} ms ({ms['after'] / ms['before']:.2f}x)"
