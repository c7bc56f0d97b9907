"""The versions that a run's numbers depend on."""

from __future__ import annotations

import platform

import torch
import transformers

from slimgpt._version import __version__


def versions() -> dict[str, str]:
    """By name."""
    return {
        "slimgpt": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
