"""Figures of the report: each function takes plain data and gives a Chart."""
