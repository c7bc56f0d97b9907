"""Finds what can go in a decoder that no family describes, and shows that it can.

Comes in: a configuration of transformers. Goes out: the decoder layers of its model, the sites of each, the numbers
that follow their units, and a reason for what cannot go.
"""
