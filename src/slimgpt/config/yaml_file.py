"""YAML that people write: recipes, studies, ratios by layer.

YAML allows more than that: a name twice, of which the last silently wins, and aliases, by which a few lines hold
billions of entries.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from slimgpt.config.paths import path_of
from slimgpt.errors import ConfigError, last_line, shown

MOST_BYTES = 1 << 18
MOST_ENTRIES = 100_000


def read_mapping(path: str, option: str, example: str, form: str) -> dict[str, Any]:
    """The content of a file of names and values, which the user has named.

    Args:
        path: as given.
        option: where it was given.
        example: what to name in its place, if it is not there.
        form: what it must hold.

    Raises:
        ConfigError: missing, not YAML, or not a mapping.
    """
    file = path_of(path, option)
    if not file.is_file():
        raise ConfigError(f"{option} {path!r} does not exist: name {example}.")
    try:
        content = read_yaml(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option} {path!r} is not YAML: {last_line(error)}. Mend it.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{option} {path!r} must hold {form}.")
    return content


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML, or none that a person would write; the text says why, and in which line.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 10} KiB")
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return None
        if _entries(node, {}) > MOST_ENTRIES:
            raise ValueError(f"its aliases (*name) stand for more than {MOST_ENTRIES:,} entries")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_reason(error)) from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except RecursionError:
        raise ValueError("it nests too deep") from None


class _Loader(yaml.SafeLoader):
    """Plain data, every name once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping.

        Raises:
            MarkedYAMLError: a name is given twice.
        """
        seen: set[tuple[str, str]] = set()
        for key in _names(node):
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{shown(key.value)} is given twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _names(node: yaml.Node) -> list[yaml.Node]:
    """Of a mapping; what else is tagged as one has none."""
    return [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def _reason(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"{error.problem or error.context}{f' in line {mark.line + 1}' if mark is not None else ''}"


def _entries(node: yaml.Node, known: dict[int, float]) -> float:
    """Entries of a node when its aliases are written out; infinite where one stands for itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        known[id(node)] = 1 + sum(_entries(part, known) for part in _parts(node))
    return known[id(node)]


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []
