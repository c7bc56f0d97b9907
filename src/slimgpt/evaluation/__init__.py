"""What was lost: measures of a model's quality.

Comes in: a model, text, tasks. Goes out: perplexities, scores, and how far two models are apart.
"""

from slimgpt.evaluation.likelihood import Perplexity, perplexity
from slimgpt.evaluation.run import EvalObserver, EvalResult, evaluate
from slimgpt.evaluation.windows import read_text

__all__ = ["EvalObserver", "EvalResult", "Perplexity", "evaluate", "perplexity", "read_text"]
