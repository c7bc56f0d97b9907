"""The border between the files that users name and the libraries that read them.

On a file that is damaged, hostile or merely unusual, libraries raise whatever they happen to stumble over. Inside
:func:`border` all of it becomes one line in our words. Nothing of ours stands inside: an error that comes from our own
code is a bug, and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from slimgpt.errors import ModelError, SlimGPTError, last_line

OURS = __name__.partition(".")[0]
PANIC = "PanicException"  # what code in Rust raises where it gives up, past all that Python calls an Exception


@contextmanager
def border(what: str, cure: str, kind: type[SlimGPTError] = ModelError) -> Iterator[None]:
    """Inside, a library reads what the user has named.

    Raises:
        SlimGPTError: of this ``kind``, where the library could not: "``what`` (its last words). ``cure``".
    """
    try:
        yield
    except SlimGPTError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == PANIC) or _raised_by_us(error):
            raise
        raise kind(f"{what} ({last_line(error)}). {cure}") from error


def _raised_by_us(error: BaseException) -> bool:
    """The code that raised is ours, and not just the line under ``with`` that calls a library written in C."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)][2:]  # after this file's, and the one with the line
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).partition(".")[0] == OURS
