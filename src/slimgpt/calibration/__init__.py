"""Text to token windows: what the model reads while its statistics are taken.

    name ──sources──▶ documents ──sampling──▶ windows_BT ──cache──▶ the same, at once, the next time

Documents are joined by blank lines, tokenised without special tokens and cut at random, as in the paper
(https://arxiv.org/abs/2412.18110, section 5); each window begins with a beginning-of-sequence token where ``--bos``
says so. The same name, tokenizer, sizes and seed give the same windows.

Comes in: a name of text, a tokenizer. Goes out: int64 windows of tokens.
"""

from __future__ import annotations

from slimgpt.calibration.asked import asked_windows
from slimgpt.calibration.cache import cached, cached_windows
from slimgpt.calibration.generated import generated_windows
from slimgpt.calibration.sampling import fingerprint, windows

__all__ = ["asked_windows", "cached", "cached_windows", "fingerprint", "generated_windows", "windows"]
