"""remove_experts(): whole experts out of a mixture, chosen by what they do to the tokens that the router sends them.

    layer ──watching──▶ sums by expert ──scores──▶ worth ──choice──▶ experts that stay ──files──▶ smaller layer

Comes in: a model and text. Goes out: a stock model with fewer experts in every layer.
"""

from __future__ import annotations

from slimgpt.experts.run import remove_experts

__all__ = ["remove_experts"]
