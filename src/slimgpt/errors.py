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


class ProofError(OutputError):
    """What was written is not the model that was made: a bug of ours or of a library, found before OUT has its name."""


class NumericalError(SlimGPTError):
    """Non-finite numbers or a matrix that stays singular: the run stops rather than degrade silently."""
