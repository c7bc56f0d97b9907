"""The only exceptions users meet.

Every message says the value, the rule it breaks, where, and what to try. The command line turns a
:class:`SlimGPTError` into one line on stderr and exit status 2; anything else is a bug of ours and keeps its
traceback.
"""

from __future__ import annotations

import reprlib
from typing import Any

LONGEST_REASON = 300  # characters of another library's words that fit into one line of ours
LONGEST_NUMBER = 40  # digits


class SlimGPTError(Exception):
    """Something the user can mend: the message names the cure."""


class ConfigError(SlimGPTError, ValueError):
    """An option has a value outside its rule, or two options contradict each other."""


class ModelError(SlimGPTError):
    """The model cannot be read, is of an unsupported family, or is damaged."""


class CalibrationError(SlimGPTError):
    """The calibration text cannot be read, or is too short for what was asked."""


class OutputError(SlimGPTError):
    """The output cannot be written where it was asked for."""


class DamagedError(SlimGPTError):
    """A file that a run or a cache has kept is not what was written. Most callers do it again, or name the cure."""


class UnsealedError(DamagedError):
    """A file that was kept has no hash, so that nobody can tell."""


class DamageWarning(UserWarning):
    """Something that was kept is damaged, and is done again."""


class ProofError(OutputError):
    """What was written is not the model that was made: a bug of ours or of a library, found before OUT has its name."""


class NumericalError(SlimGPTError):
    """Non-finite numbers or a matrix that stays singular: the run stops rather than degrade silently."""


class _Shown(reprlib.Repr):
    """Python's own shortener, which still cannot write down an integer of thousands of digits."""

    def repr_int(self, value: int, level: int) -> str:
        """The digits, or how many there are."""
        if abs(value) < 10**LONGEST_NUMBER:
            return repr(value)
        return f"a number of {value.bit_length()} bits"


_shown = _Shown()
_shown.maxlevel, _shown.maxstring, _shown.maxother = 2, 160, 160


def shown(value: Any) -> str:
    """A user's value for a message, cut where it is long: a few lines of YAML can hold billions of entries."""
    return _shown.repr(value)


def is_text(text: str) -> bool:
    """It can be written: halves of characters, as of names in old alphabets, cannot."""
    return text.isascii() or text == text.encode("utf-8", "replace").decode()


def last_line(error: BaseException) -> str:
    """What an error of another library says in the end; the lines before tend to repeat it."""
    text = (str(error).strip().splitlines() or [repr(error)])[-1].strip().rstrip(".")
    if isinstance(error, LookupError):  # says no more than the key
        text = f"{type(error).__name__}: {text}"
    if len(text) > LONGEST_REASON:
        half = LONGEST_REASON // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()  # half a character cannot be printed
