"""Gemma 1: the Llama shape with scaled embeddings and a head_dim of its own."""

from __future__ import annotations

from transformers import GemmaConfig

from slimgpt.arch import gated

GEMMA = gated.stock_family("gemma", GemmaConfig)
