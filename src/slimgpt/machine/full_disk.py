"""A disk that takes no more, said in one line instead of a traceback."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slimgpt.errors import OutputError, SlimGPTError

REASONS = {
    "ENOSPC": "the disk is full",
    "EDQUOT": "the disk quota is used up",
    "EFBIG": "a file would be larger than the system allows (see ulimit -f)",
}
CUT_SHORT = "a file could not be written to its end: the disk is full, or its quota used up, or see ulimit -f"
CUT_SHORT_SAYS = re.compile(
    r"\d+ requested and \d+ written"  # numpy
    r"|inline_container.*unexpected pos|PytorchStreamWriter failed writing file"  # torch.save
)
SYSTEM_ERROR_SAYS = re.compile(r"\(os error (\d+)\)")  # libraries in Rust


AGAIN = "Make room, and give the same command again."


@contextmanager
def full_disk_named(folder: Path | None, cure: str | Callable[[], str] = AGAIN) -> Iterator[None]:
    """Inside, a disk that takes no more is an OutputError: where (a file, if no folder is given), why, and the cure."""
    try:
        yield
    except Exception as error:  # libraries have errors of their own kinds
        reason = full_disk(error)
        if reason is None:
            raise
        where = folder or getattr(error, "filename", None)
        before = f"{where}: " if where else ""
        raise OutputError(f"{before}{reason}. {cure if isinstance(cure, str) else cure()}") from error


def full_disk(error: BaseException) -> str | None:
    """Why the disk takes no more, if that is what an error, or the one that led to it, says; else None."""
    if isinstance(error, SlimGPTError):  # said already
        return None
    cause = error.__cause__ or error.__context__
    return _reason(error) or (full_disk(cause) if cause is not None else None)


def _reason(error: BaseException) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := SYSTEM_ERROR_SAYS.search(str(error))):
        number = int(found[1])
    name = errno.errorcode.get(number or 0, "")
    return REASONS.get(name) or (CUT_SHORT if CUT_SHORT_SAYS.search(str(error)) else None)
