"""What a run without some experts leaves in ``slimgpt.json``.

Shapes: E experts · N that stay.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from slimgpt.experts.job import Job
from slimgpt.experts.repair import Refit
from slimgpt.experts.watching import RoutingStats
from slimgpt.machine.clock import Clock
from slimgpt.machine.versions import versions
from slimgpt.model.beginning import bos_of
from slimgpt.model.schema import SCHEMA
from slimgpt.output import record_file

ENOUGH_TOKENS = 100
"""Tokens that an expert should see for its score to mean something."""


@dataclass(frozen=True)
class LayerRecord:
    """What became of one layer's experts.

    Attributes:
        index: of the layer.
        kept_N: those that stayed, by their numbers of before.
        score_E: what each was worth.
        before: what the router sent to each.
        after: what it sends to each that stayed.
        fitted: how those were refitted; None where they were not.
    """

    index: int
    kept_N: Tensor
    score_E: Tensor
    before: RoutingStats
    after: RoutingStats
    fitted: Refit | None

    def said(self) -> dict[str, Any]:
        """For the record: shares are of all places that the router fills."""
        return {
            "layer": self.index,
            "kept": self.kept_N.tolist(),
            "scores": self.score_E.tolist(),
            "tokens": [int(count) for count in self.before.tokens_E.tolist()],
            "share_before": self.before.share_E.tolist(),
            "share_after": self.after.share_E.tolist(),
            "share_kept": float(self.before.share_E[self.kept_N].sum()),
            **self._said_of_repair(),
        }

    def _said_of_repair(self) -> dict[str, Any]:
        fitted = self.fitted
        if fitted is None:
            return {}
        errors = {"error_before_repair": fitted.error_before, "error_after_repair": fitted.error_after}
        return {"refitted": fitted.refitted, **errors}


def record_of(job: Job, layers: list[LayerRecord], clock: Clock) -> dict[str, Any]:
    """All but the proof."""
    tokens = [count for layer in layers for count in layer.before.tokens_E.tolist()]
    return {
        "schema": SCHEMA,
        "kind": "experts",
        **record_file.provenance(job.checkpoint),
        "options": asdict(job.config),
        "bos": bos_of(job.tokenizer, job.config.bos),
        "versions": versions(),
        "parameters": record_file.sizes(
            job.checkpoint.num_params, job.num_params, job.num_params * job.machine.stored_dtype.itemsize
        ),
        "experts": {
            "before": job.mixture.num_experts,
            "after": job.tried.num_kept,
            "per_token": job.tried.per_token,
            "tokens_mean": sum(tokens) / len(tokens),
            "tokens_least": int(min(tokens)),
            "tokens_enough": ENOUGH_TOKENS,
            "repaired": job.tried.repairs,
            "unseen": sum(count == 0 for count in tokens),
            "left_out": list(job.files.left_out),
            "layers": [layer.said() for layer in layers],
        },
        "layout": "uniform",
        "cost": record_file.cost(clock, job.machine.device, job.needs.host),
    }
