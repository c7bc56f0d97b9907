"""Gives back what pruning took: short fine-tuning by LoRA or of all weights, on data or towards the dense model.

files ──rows──▶ rows ──targets──▶ rows and the teacher's predictions ──trainer──▶ weights ──save──▶ OUT

Comes in: a pruned model, data, perhaps its dense teacher. Goes out: the same layout with better weights.
"""

from __future__ import annotations

from slimgpt.recovery.job import foresee
from slimgpt.recovery.observer import RecoverObserver
from slimgpt.recovery.run import RecoverResult, recover

__all__ = ["RecoverObserver", "RecoverResult", "foresee", "recover"]
