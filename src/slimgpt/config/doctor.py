"""The options of ``slimgpt doctor``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DoctorConfig:
    """Say what is here: versions, devices, memory, disk, and what each extra gives. For bug reports."""

    json: str | None = None
    """Also write it to this file."""

    def check(self) -> None:
        """Nothing here can be outside a rule."""
