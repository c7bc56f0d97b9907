"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path

from slimgpt.errors import ConfigError, is_text, last_line, shown


def path_of(text: str | os.PathLike[str], what: str) -> Path:
    """A path, with ``~`` in it followed home; ``what`` is what it names, for the message.

    Raises:
        ConfigError: no system can have it.
    """
    try:
        path = Path(text).expanduser()
        path.lstat()
        if not is_text(str(path)):
            raise ValueError("its name is not UTF-8")
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{what} {shown(text)} is no path ({last_line(error)}): choose another.") from error
    return path
