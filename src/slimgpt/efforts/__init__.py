"""``slimgpt prune`` with all that an effort takes: one pruning, or several with a training after each, as one command.

options ──table──▶ steps ──run──▶ stages, each a command of its own in the working folder ──record──▶ OUT

Comes in: the options of ``slimgpt prune``. Goes out: one folder with one record, resumable anywhere.
"""

from __future__ import annotations

from slimgpt.efforts.run import prune

__all__ = ["prune"]
