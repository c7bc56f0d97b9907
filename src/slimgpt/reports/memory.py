"""What a run will need, and what a model will take, in words; and sizes for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimgpt.streaming.memory import Needs

LEAST_SHARE = 0.01  # of the memory: smaller parts are not worth a word


def mebibytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**33 else f"{count / 2**30:,.1f} GiB"


def needs_lines(needs: Needs, device: object, num_processes: int = 1) -> str:
    """Memory and disk that the run will take at its peak, and what for."""
    on_device = "" if needs.on_cpu else f"{mebibytes(needs.device)} on {device}, "
    disk = f", {mebibytes(needs.disk)} on disk for activations" if needs.offloaded else ""
    each = f" in each of {num_processes} processes" if num_processes > 1 else ""
    return f"Needs about {on_device}{mebibytes(needs.host)} of memory{disk}{each}{_parts(needs)}."


def memory_line(found: Mapping[str, Any]) -> str:
    """What a plan's weights and cache take."""
    weights, cache = found["weights_bytes"], found["cache_bytes"]
    together = {when: weights[when] + cache[when] for when in weights}
    return (
        f"Memory: weights {_both(weights)}, a cache of {found['batch']:,} x {found['context']:,} tokens "
        f"{_both(cache)}; together {_both(together)}."
    )


def _both(size: Mapping[str, int]) -> str:
    return f"{mebibytes(size['before'])} → {mebibytes(size['after'])}"


def _parts(needs: Needs) -> str:
    """What is there at the peak, the most first."""
    if needs.taken + needs.more < needs.most_so_far:
        return ", which getting ready has taken already"
    worth_saying = {name: size for name, size in needs.parts.items() if size > LEAST_SHARE * needs.host}
    parts = [f"{mebibytes(size)} {name}" for name, size in {"by now": needs.taken, **worth_saying}.items()]
    return f", the most in {needs.largest.name} ({', '.join(parts)})"
