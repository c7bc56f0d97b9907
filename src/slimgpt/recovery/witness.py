"""What a model says when its training is over, before it is merged and written: what the written one has to say too.

Shapes: T tokens · V vocabulary.
"""

from __future__ import annotations

import torch

from slimgpt.proof import Witness
from slimgpt.proof.agreement import coarsest
from slimgpt.proof.witness import NUM_COMPARED, SHORT
from slimgpt.recovery import compiling
from slimgpt.recovery.job import Job
from slimgpt.recovery.trainer import RecoveryTrainer


def of_trained(job: Job, trainer: RecoveryTrainer) -> Witness:
    """Logits of the first held-out row, adapters in place."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    ids_T = torch.tensor(job.held_out[0].ids[:SHORT])
    with torch.inference_mode(), trainer.compute_loss_context_manager(), compiling.as_written():
        logits_1TV = model(input_ids=ids_T[None].to(job.device), use_cache=False).logits
    stored = job.checkpoint.dtype
    precision = coarsest(torch.bfloat16 if job.bfloat16 else torch.float32, stored)
    logits_KV = logits_1TV[0, -NUM_COMPARED:].float().cpu()
    return Witness(ids_T, logits_KV, job.device, torch.float32, stored, precision, job.checkpoint.path)
