"""The only exceptions users meet.

Every message says the value, the rule it breaks, where, and what to try. The command line turns a
:class:`SlimGPTError` into one line on stderr and exit status 2; anything else is a bug of ours and keeps its
traceback.
"""

from __future__ import annotations


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


class NumericalError(SlimGPTError):
    """Non-finite numbers or a matrix that stays singular: the run stops rather than degrade silently."""
