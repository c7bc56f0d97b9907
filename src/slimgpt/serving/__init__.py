"""Servers that load pruned models by classes of their own: what slimgpt brings them.

Comes in: the folder of a per-layer model, by the server. Goes out: the server's own model, of layers of their sizes.
"""
