"""The end of a run: the finished folder is put together, proved, and given its name."""

from __future__ import annotations

from typing import Any

from slimgpt.machine.clock import Clock
from slimgpt.output import assembly, record_file
from slimgpt.proof import Witness, prove
from slimgpt.pruning import record
from slimgpt.pruning.job import Job

KEPT = "Finished layers are kept: the same command with --resume goes on from them."


def finish(job: Job, done: list[dict[str, Any]], witness: Witness, clock: Clock) -> dict[str, Any]:
    """Make OUT of the journal; the record.

    Raises:
        ProofError: what was put together is not what was pruned.
    """
    folder = job.place.finished
    with clock.timed("write"):
        shards = [job.journal.shard(index) for index in range(len(job.checkpoint.layers))]
        size, dtype = job.plan.bytes_after, job.machine.stored_dtype
        cut = job.journal.weights(None) if None in job.indices else {}
        assembly.assemble(folder, job.checkpoint, shards, size, dtype, job.output_config, job.tokenizer, cut)
    with clock.timed("prove"):
        proof = prove(folder, witness, job.tokenizer, job.needs.more, KEPT)
    return record_file.publish(job.place, {**record.build(job, done, clock), "proof": proof})
