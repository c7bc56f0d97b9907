"""Qwen3: the Llama shape with norms on each query and key head (their weights are shared by the heads and stay)."""

from __future__ import annotations

from transformers import Qwen3Config

from slimgpt.arch import gated

QWEN3 = gated.stock_family("qwen3", Qwen3Config)
