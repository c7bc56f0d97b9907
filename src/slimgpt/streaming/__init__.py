"""Calibration windows through one decoder layer after the other, in bounded memory.

Comes in: a checkpoint and token windows. Goes out: the statistics of what enters each site, and how much
memory it takes.
"""
