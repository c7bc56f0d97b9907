"""Whoever watches text go through layers."""

from __future__ import annotations

import torch

from slimgpt.streaming.memory import Needs


class StreamObserver:
    """What a run tells whoever watches it. Does nothing itself; the command line shows how far the run is."""

    def said(self, text: str) -> None:
        """Something that people should know before work starts."""

    def planned(self, needs: Needs, device: torch.device) -> None:
        """Everything is checked; work starts when this returns."""

    def stage(self, name: str, num_tokens: int | None = None) -> None:
        """A stage begins that takes so many tokens, if it takes any."""

    def tokens(self, count: int) -> None:
        """So many tokens went through a layer."""
