"""``slimgpt prune``: options become a checked job, the driver carries it out, the journal keeps what is finished.

Comes in: :class:`PruneConfig <slimgpt.config.PruneConfig>`. Goes out: a smaller model in a folder, and its record.
"""
