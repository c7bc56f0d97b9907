"""JSON that somebody else has written, or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slimgpt.errors import is_text

DEEPEST = 100  # levels: what people and tools write has ten


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON in UTF-8, has halves of characters, or nests so deep that it would break its readers.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"it nests deeper than {DEEPEST} levels") from None
    _check_depth(content)
    if not is_text(json.dumps(content, ensure_ascii=False)):  # what is read will be written again
        raise ValueError("it has half a character in it")
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The same of a file that must hold an object.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or no object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(f"it nests deeper than {DEEPEST} levels")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
