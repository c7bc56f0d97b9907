"""What ``slimgpt sparsify`` takes, by stage.

Shapes: O outputs · I inputs of a projection.
"""

from __future__ import annotations

from slimgpt.solvers.memory import FLOAT32, FLOAT64, measuring
from slimgpt.streaming.memory import Stage
from slimgpt.streaming.sizes import LayerSize
from slimgpt.streaming.stages import Passage

CURE = "lower --batch-size or --samples"
SCORED = 5  # O x I float64: scores, their order, flags, and the weight itself
FACTORS = 3  # I x I float64: the inverse's factor, what it comes from, and an identity


def masking(passage: Passage, method: str, reads_text: bool) -> list[Stage]:
    """What each layer takes, with statistics of its inputs where text is read."""
    stages = []
    for layer in dict.fromkeys(passage.size.layers):
        sums = {"statistics": _sums(layer, passage.size.hidden) if reads_text else 0}
        batch = {"a batch": passage.batch(layer)} if reads_text else {}
        width = passage.size.hidden if reads_text else 0
        masks = max((_mask(method, site.num_outputs, site.num_inputs) for site in layer.sites), default=0)
        sparse = layer.params * passage.computed.itemsize  # beside the dense ones, which stay until the layer is done
        stages += [
            passage.stage("a layer's statistics", layer, width, {**sums, **batch}),
            passage.stage("a layer's masks", layer, width, {**sums, "masks": masks, "sparse weights": sparse}),
        ]
    return stages


def _sums(layer: LayerSize, hidden: int) -> int:
    """Of what enters the consumer of each site and, once, its producers."""
    return FLOAT32 * sum(site.num_inputs**2 + hidden**2 for site in layer.sites)


def _mask(method: str, num_outputs: int, num_inputs: int) -> int:
    """Of the matrix that needs most: a consumer, or a producer of the same size."""
    chosen = FLOAT64 * SCORED * num_outputs * num_inputs
    if method == "sparsegpt":
        chosen = max(FLOAT64 * FACTORS * num_inputs**2, FLOAT64 * num_inputs**2 + chosen)
    return max(chosen, measuring(num_outputs, num_inputs))
