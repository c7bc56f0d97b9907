"""The solvers: which units of a site go, and the weights of those that stay. One file each, one signature.

Comes in: a weight, the moments of its inputs, how many units go. Goes out: which stay, and the weight refitted.
"""

from __future__ import annotations

from slimgpt.sites import Solver
from slimgpt.solvers.flap import flap
from slimgpt.solvers.magnitude import magnitude
from slimgpt.solvers.obs import obs
from slimgpt.solvers.random import random
from slimgpt.solvers.slimgpt import slimgpt
from slimgpt.solvers.wanda import wanda

SOLVERS: dict[str, Solver] = {
    "obs": obs,
    "slimgpt": slimgpt,
    "wanda": wanda,
    "flap": flap,
    "magnitude": magnitude,
    "random": random,
}
