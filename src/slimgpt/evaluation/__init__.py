"""What was lost: measures of a model's quality."""

from slimgpt.evaluation.likelihood import Perplexity, perplexity
from slimgpt.evaluation.run import Evaluation, Observer, evaluate
from slimgpt.evaluation.windows import read_text

__all__ = ["Evaluation", "Observer", "Perplexity", "evaluate", "perplexity", "read_text"]
