"""How much goes where.

Comes in: what every layer has, and what the user asks for (a ratio, a size, a time). Goes out: units that each
layer keeps.
"""
