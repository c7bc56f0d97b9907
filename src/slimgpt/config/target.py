"""How small the result should be: the options that ``prune`` and ``search`` share, and how their values are spelled."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from slimgpt.config.checks import at_least
from slimgpt.errors import ConfigError, shown

MAX_RATIO = 0.9
DEFAULT_RATIO = 0.25

COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
BYTES = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
LARGEST = 1e18  # before its unit
NUMBER = re.compile(r"(?P<number>\d[\d_,]*(?:\.\d+)?(?:e\d+)?|\.\d+)\s*(?P<unit>[a-z]*)")


BLOCKS = ("attention", "ffn")
"""The blocks of a layer that may vanish."""


class Latency(NamedTuple):
    """A time at most: ``value`` milliseconds, or that fraction of the dense model's time."""

    value: float
    relative: bool


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """A ratio, or one of the targets."""

    ratio: float | None = None
    """Removed fraction of all parameters, embeddings included, in [0, 0.9]. 0.25 where no target is given either."""

    target_params: int | str | None = None
    """In place of --ratio: parameters of the result at most, embeddings included, such as 100M or 1.5B."""

    target_size: str | None = None
    """In place of --ratio: size of the written weights at most, such as 200MB or 1.5GiB."""

    target_memory: str | None = None
    """In place of --ratio: weights and cache together at most, such as 6GB, with --batch sequences of --context tokens
    under way, both in the dtype of the written weights."""

    context: int | None = None
    """With --target-memory: tokens of each sequence, prompt and answer."""

    batch: int = 1
    """With --target-memory: sequences at a time."""

    target_latency: str | None = None
    """In place of --ratio: time of the result at most, such as 0.7x (of the dense model's) or 12ms. It is predicted
    from a table of layer costs by width, measured on --device first."""

    latency_of: Literal["decode", "prefill"] = "decode"
    """What --target-latency is the time of, at batch size 1: decode is one token after a prompt, prefill the prompt."""

    latency_prompt: int = 128
    """Tokens of that prompt."""

    latency_table: str | None = None
    """JSON file that keeps the table of layer costs, or has it from an earlier run, which may have been on another
    device. Default: in the cache."""

    attention_units: Literal["groups", "queries"] = "groups"
    """Under grouped-query attention. groups: a KV head goes with all its query heads. queries: query heads may go as
    well, equally many from every KV head that stays, where that comes nearer to the layer's ratio or, with --allocation
    searched, costs less."""

    blocks: str = "none"
    """With --allocation searched: which blocks of a layer may vanish as a whole where that costs least: attention, ffn,
    or attention,ffn. none: every layer keeps something of both."""

    tensor_parallel: int = 1
    """Every layer can be split evenly over so many devices, as vLLM's --tensor-parallel-size asks: query heads and FFN
    widths are multiples of it, KV heads multiples or divisors."""

    @property
    def whole_blocks(self) -> tuple[str, ...]:
        """Parts of a layer that may vanish as a whole."""
        return () if self.blocks == "none" else tuple(part.strip() for part in self.blocks.split(","))

    @property
    def by_queries(self) -> bool:
        """Query heads may go by themselves."""
        return self.attention_units == "queries"

    @property
    def asked_ratio(self) -> float | None:
        """The ratio asked for, by default too; None where there is a target in its place."""
        if self.ratio is None and not self._targets():
            return DEFAULT_RATIO
        return self.ratio

    def check_target(self) -> None:
        """Raise ConfigError unless there is one target, or none, and it can be read."""
        given = (["--ratio"] if self.ratio is not None else []) + self._targets()
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} both say how small the result should be: give one of them.")
        if self.ratio is not None and not (math.isfinite(self.ratio) and 0 <= self.ratio <= MAX_RATIO):
            raise ConfigError(
                f"--ratio {self.ratio} is outside [0, {MAX_RATIO}]: it is the removed fraction of all parameters."
            )
        if unknown := set(self.whole_blocks) - set(BLOCKS):
            raise ConfigError(
                f"--blocks {self.blocks}: {sorted(unknown)[0]!r} is no block of a layer: give none, or some of "
                f"{','.join(BLOCKS)}."
            )
        if self.target_params is not None:
            count(self.target_params)
        if self.target_size is not None:
            size(self.target_size)
        self._check_memory()
        at_least("latency-prompt", self.latency_prompt, 1)
        at_least("tensor-parallel", self.tensor_parallel, 1)
        if self.target_latency is not None:
            latency(self.target_latency)
            if self.by_queries:
                raise ConfigError(
                    "--target-latency knows what whole KV groups take: drop --attention-units queries, or give another "
                    "target."
                )
        elif self.latency_table is not None or self.latency_of != "decode":
            raise ConfigError("--latency-table and --latency-of go with --target-latency: add that, or drop them.")

    def _check_memory(self) -> None:
        """Raise ConfigError unless a target of memory says of which cache, and nothing else does."""
        if self.target_memory is None:
            if self.context is not None or self.batch != 1:
                raise ConfigError("--context and --batch go with --target-memory: add that, or drop them.")
            return
        memory(self.target_memory)
        if self.context is None:
            raise ConfigError(
                f"--target-memory {self.target_memory} counts the cache too, which grows with the text: say for how "
                "many tokens of each sequence, such as --context 8192, and for how many sequences (--batch)."
            )
        at_least("context", self.context, 1)
        at_least("batch", self.batch, 1)

    def _targets(self) -> list[str]:
        names = ("target_params", "target_size", "target_memory", "target_latency")
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]


def count(text: int | str) -> int:
    """Parameters: 100000000, 100M, 1.5B, 300k.

    Raises:
        ConfigError: no number of that kind, or below 1.
    """
    number, unit = _split(shown(text) if isinstance(text, int) else text)
    if unit not in COUNTS or number * COUNTS[unit] < 1:
        raise ConfigError(f"--target-params {shown(text)} is no number of parameters: write 100000000, 100M or 1.5B.")
    return int(number * COUNTS[unit])


def size(text: str) -> int:
    """Bytes of --target-size: 200MB is 200,000,000, 200MiB is 200 · 2²⁰.

    Raises:
        ConfigError: no number with a unit, or below 1 byte.
    """
    return _bytes(text, "--target-size")


def memory(text: str) -> int:
    """Bytes of --target-memory, spelled likewise.

    Raises:
        ConfigError: no number with a unit, or below 1 byte.
    """
    return _bytes(text, "--target-memory")


def _bytes(text: str, option: str) -> int:
    number, unit = _split(text)
    if unit not in BYTES or number * BYTES[unit] < 1:
        raise ConfigError(f"{option} {shown(text)} is no size: write it with a unit, 200MB, 190MiB, 1.5GB or 1.4GiB.")
    return int(number * BYTES[unit])


def latency(text: str) -> Latency:
    """A time: 12ms, or 0.7x of the dense model's.

    Raises:
        ConfigError: no number of that kind, or a fraction that is not between 0 and 1.
    """
    number, unit = _split(text)
    if unit not in ("x", "ms") or number <= 0:
        raise ConfigError(
            f"--target-latency {shown(text)} is no time: write 0.7x for a fraction of the dense model's, or 12ms."
        )
    if unit == "x" and number >= 1:
        raise ConfigError(f"--target-latency {shown(text)} must be below 1x, which is the dense model's own time.")
    return Latency(number, relative=unit == "x")


def _split(text: str) -> tuple[float, str]:
    """Number and unit; a unit that no table knows where there is no number, or one beyond all sense."""
    found = NUMBER.fullmatch(text.strip().lower())
    number = float(re.sub(r"[_,]", "", found["number"])) if found is not None else math.inf
    return (number, found["unit"]) if found is not None and number < LARGEST else (0.0, "?")
