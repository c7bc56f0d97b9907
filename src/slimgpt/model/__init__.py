"""A model on disk, opened one layer at a time.

Comes in: what the user names (a folder, a hub id, a GGUF file). Goes out: a checked :class:`Checkpoint
<slimgpt.model.checkpoint.Checkpoint>`, layers with their weights in, layers that are cut, and smaller configurations.
"""
