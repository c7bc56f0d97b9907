"""A name to a source of documents: ``builtin``, a file or folder, or a data set on the hub."""

from __future__ import annotations

import ast
import difflib
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from slimgpt.calibration import files
from slimgpt.calibration.row_text import PLAIN, RowText
from slimgpt.calibration.tables import TABLES
from slimgpt.errors import CalibrationError, shown

BUILTIN = "builtin"
HUB_ALIASES = {"c4": "allenai/c4:en"}
HUB_ID = re.compile(r"(?P<dataset>\w[\w.-]*/\w[\w.-]*)(?::(?P<config>[\w.-]+))?")
OTHER_CHOICES = f"give a local text, JSONL, CSV, TSV or Parquet file or a folder of them, or {BUILTIN!r}"
NAMED = 3  # files that a message names

# Distributions differ in whether they ship the tests, and what pip installed is not the standard library.
NOT_STDLIB = {"__pycache__", "dist-packages", "site-packages", "test", "tests"}


@dataclass(frozen=True)
class Source:
    """Where documents come from.

    Attributes:
        documents: the documents, given a seed, lazily; local ones ignore the seed.
        identity: changes whenever the documents may have changed; part of the cache key.
        whole: reading on costs little, so documents are drawn from all of it and not from its beginning.
        passed_over: files of a folder that are neither text nor tables, which are not read.
    """

    documents: Callable[[int], Iterator[str]]
    identity: str
    whole: bool
    passed_over: tuple[Path, ...] = ()

    @property
    def note(self) -> str | None:
        """What people should know before it is read."""
        if not self.passed_over:
            return None
        names = [path.name for path in self.passed_over[:NAMED]]
        more = f" and {len(self.passed_over) - NAMED} more" if len(self.passed_over) > NAMED else ""
        return f"note: {', '.join(names)}{more} in the calibration folder: neither text nor tables, so not read."


def resolve(name: str, text_of: RowText = PLAIN) -> Source:
    """The source that ``name`` stands for; ``text_of`` makes text of its rows.

    ``builtin`` and ``c4`` are reserved (``./c4`` is the folder); of the rest, what exists locally wins over a
    hub id ``owner/name`` or ``owner/name:config``.

    Raises:
        CalibrationError: there is no such file, and the name cannot be a hub id; or a file is neither text nor table.
    """
    if name == BUILTIN:
        return Source(_builtin, identity=f"{BUILTIN} {sys.version}", whole=False)
    if name not in HUB_ALIASES and _exists(name):
        return _local(Path(name).expanduser(), text_of)
    hub_id = HUB_ALIASES.get(name, name)
    if not HUB_ID.fullmatch(hub_id) or _looks_like_file(name):
        raise _missing(name)
    return Source(partial(_hub, hub_id, text_of), identity=f"hub {hub_id}", whole=False)


def _builtin(seed: int) -> Iterator[str]:
    """English on every machine: Python's language reference, then the docstrings of its library."""
    from pydoc_data.topics import topics

    yield from topics.values()
    for folder, subfolders, names in os.walk(sysconfig.get_path("stdlib")):
        subfolders[:] = sorted(set(subfolders) - NOT_STDLIB)
        modules = (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
        yield from map(_docstrings, modules)


def _docstrings(module: Path) -> str:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    try:
        tree = ast.parse(module.read_bytes())
    except SyntaxError:  # templates and code of another Python, as some distributions add
        return ""
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def _local(path: Path, text_of: RowText) -> Source:
    below = _files_below(path) if path.is_dir() else [path]
    found = [file for file in below if files.is_known(file)]
    if not found:
        if path.is_file():
            files.require_known(path)
        raise CalibrationError(
            f"calibration folder {str(path)!r} holds no files that are text or tables; {OTHER_CHOICES}"
        )
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in found]
    return Source(
        lambda seed: chain.from_iterable(files.documents(file, text_of) for file in found),
        repr(stats),
        whole=True,
        passed_over=tuple(file for file in below if not files.is_known(file)),
    )


def _files_below(folder: Path) -> list[Path]:
    """Every file that is not hidden, in an order that no file system changes."""
    visible = (path for path in folder.rglob("*") if not _hidden(path.relative_to(folder)))
    return sorted(path for path in visible if path.is_file())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _hub(hub_id: str, text_of: RowText, seed: int) -> Iterator[str]:
    """Rows of the train split as they stream in, the shards in an order that the seed decides."""
    dataset, config = HUB_ID.fullmatch(hub_id).group("dataset", "config")  # type: ignore[union-attr]
    try:
        import datasets

        rows = datasets.load_dataset(dataset, config, split="train", streaming=True)
        # A buffer of one row mixes shards only: windows are drawn at random later, over all that was read.
        for row in rows.shuffle(seed=seed, buffer_size=1):
            yield text_of(row, f"hub dataset {hub_id!r}")
    except CalibrationError:
        raise
    except Exception as error:  # network, hub and parsers raise what they like, ValueError to httpx's own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CalibrationError(
            f"hub dataset {hub_id!r} cannot be read: {reason}; check the network and the id, or {OTHER_CHOICES}"
        ) from error


def _exists(name: str) -> bool:
    return os.path.exists(os.path.expanduser(name))  # unlike Path's, false for "", a NUL or an unknown ~user


def _looks_like_file(name: str) -> bool:
    return Path(name).suffix.lower() in {*files.TEXTS, *TABLES, *files.DECOMPRESSORS}


def _missing(name: str) -> CalibrationError:
    siblings: list[str] = []
    with suppress(OSError, ValueError):
        siblings = [str(path) for path in Path(name).parent.iterdir()]
    near = difflib.get_close_matches(name, [BUILTIN, *HUB_ALIASES, *siblings], n=1)
    hint = f"did you mean {near[0]!r}? Otherwise " if near else ""
    return CalibrationError(
        f"calibration file {shown(name)} does not exist; {hint}{OTHER_CHOICES}, or a hub id 'owner/name'"
    )
