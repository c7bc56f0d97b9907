"""A finished folder is opened the way users open it, before it gets its name.

    folder ──opening──▶ names, shapes, tokenizer ──▶ logits, whole or layer by layer ──agreement──▶ those of the run

Whoever makes a folder has a :class:`Witness` of what is in it: logits that the run itself has computed, without the
files. A folder that says something else is not published; the work that is in it is kept.

Comes in: a finished folder, a witness, a tokenizer. Goes out: what was checked, for the record.
"""

from __future__ import annotations

from slimgpt.proof.proving import prove
from slimgpt.proof.witness import Witness, alone, run_through, short_window, witness_of

__all__ = ["Witness", "alone", "prove", "run_through", "short_window", "witness_of"]
