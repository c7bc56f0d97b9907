"""The tools that exports are for: optional packages, imported when needed."""

from __future__ import annotations

import importlib
from typing import Any

from slimgpt.errors import ConfigError


def need(module: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        ConfigError: it is not installed, or does not load; the message names the extra of ours that brings it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # llama_cpp raises the latter two where its library is amiss
        raise ConfigError(
            f"this needs {module}, which is not here ({error}): pip install 'slimgpt[{extra}]'."
        ) from error
