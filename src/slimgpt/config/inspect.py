"""The options of ``slimgpt inspect`` and ``slimgpt families``."""

from __future__ import annotations

from dataclasses import dataclass

from slimgpt.config.checks import Model


@dataclass(frozen=True)
class InspectConfig:
    """Show a model's family, per-layer heads, KV heads and FFN widths, and parameters by part."""

    model: Model
    """Local folder (dense or pruned), hub id, or .gguf file."""

    json: str | None = None
    """Also write the result to this file."""

    def check(self) -> None:
        """Nothing here can be outside a rule."""


@dataclass(frozen=True)
class FamiliesConfig:
    """List the model families that can be pruned, and what goes in each."""

    def check(self) -> None:
        """There is nothing to check."""
