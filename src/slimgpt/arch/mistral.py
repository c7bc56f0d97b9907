"""Mistral: the Llama shape with a sliding window."""

from __future__ import annotations

from transformers import MistralConfig

from slimgpt.arch import gated

MISTRAL = gated.stock_family("mistral", MistralConfig)
