"""The folder that users get, whole or not at all.

Comes in: finished layers, a configuration, a tokenizer, a record. Goes out: ``OUT``, with its card and
what was measured.
"""
