"""Libraries that only some commands need, and that pip installs when asked."""

from __future__ import annotations

import importlib.util

from slimgpt.errors import ConfigError


def require_study_extra() -> None:
    """Raise ConfigError where the libraries of a study are not installed, which is before any work."""
    missing = [name for name in ("pyarrow", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"a study needs {' and '.join(missing)}: pip install 'slimgpt[study]'.")


def require_report_extra() -> None:
    """Raise ConfigError where the libraries of the report are not installed, which is before any work."""
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"a report needs {' and '.join(missing)}: pip install 'slimgpt[report]'.")
