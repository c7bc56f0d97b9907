"""What was lost: measures of a model's quality."""

from slimgpt.evaluation.perplexity import Perplexity, perplexity, read_text

__all__ = ["Perplexity", "perplexity", "read_text"]
