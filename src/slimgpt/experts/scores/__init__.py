"""What an expert is worth to its layer: one function a file, and its source; the experts worth least go.

Comes in: what the experts did on the calibration text, and their weights. Goes out: a number an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from slimgpt.experts.scores.aimer import aimer
from slimgpt.experts.scores.frequency import frequency
from slimgpt.experts.scores.man import man
from slimgpt.experts.scores.random import random
from slimgpt.experts.scores.reap import reap
from slimgpt.experts.watching import RoutingStats

Score = Callable[[RoutingStats, nn.Module, torch.Generator], Tensor]
"""``score(stats, experts, generator)``: E numbers in float64, more being better."""

SCORES: Mapping[str, Score] = {"reap": reap, "man": man, "frequency": frequency, "aimer": aimer, "random": random}

EXACT = "exact"
"""What is no number of each expert alone: :mod:`slimgpt.experts.exact`."""
