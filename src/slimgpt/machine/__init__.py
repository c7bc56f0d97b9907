"""The machine underneath: devices, processes, locks, files that appear whole.

Comes in: paths, device names, tensors to write. Goes out: devices, dtypes, processes that share work, files on disk.
"""
