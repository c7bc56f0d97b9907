"""Everything that a run without some experts needs, checked before any work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimgpt import calibration
from slimgpt.config import PruneConfig
from slimgpt.detection.numbers import with_numbers
from slimgpt.errors import ConfigError
from slimgpt.experts.counts import count_kept
from slimgpt.experts.exact import CHUNK
from slimgpt.experts.exact import num_tokens as tried_tokens
from slimgpt.experts.files import Files, files_of, parameters_left
from slimgpt.experts.mixture import Mixture, find_mixture
from slimgpt.experts.rehearsal import Rehearsal
from slimgpt.experts.repair import num_tokens as fitted_tokens
from slimgpt.experts.scores import EXACT
from slimgpt.machine import devices
from slimgpt.machine.processes import Processes
from slimgpt.machine.setup import Machine
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.checks import check_context, check_rest
from slimgpt.model.skeleton import empty_model
from slimgpt.model.stock import open_stock
from slimgpt.output.place import Place, merged_bytes
from slimgpt.proof import short_window
from slimgpt.proof.memory import proved
from slimgpt.streaming import memory
from slimgpt.streaming.other_way import note_other_way
from slimgpt.streaming.sizes import SiteSize
from slimgpt.streaming.stages import FLOAT32, Passage, passage_of

CURE = "lower --batch-size or --samples"
REPAIRING = 4  # tensors of all tokens that are refitted by: what enters, what is wanted, what is missing, its parts
REHEARSED = 48  # tokens that the first layer is tried with
MORE_HEADS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
"""What configurations call layers that predict tokens after the next, whose weights transformers does not read."""


class Tried(NamedTuple):
    """What has been decided and tried on the first layer with experts.

    Attributes:
        num_kept: experts of a layer that stay.
        per_token: experts that a token is sent to.
        smaller: the layers of the model with so many experts, empty.
        output_config: its configuration.
        repairs: the experts that stay are refitted.
    """

    num_kept: int
    per_token: int
    smaller: nn.ModuleList
    output_config: Any
    repairs: bool


@dataclass(frozen=True)
class Job:
    """A run after all its checks.

    Attributes:
        config: the options.
        checkpoint: the model.
        mixture: its experts.
        tried: how many stay, and what follows from that.
        files: tensors as they are stored.
        tokenizer: the model's.
        windows_BT: the calibration text.
        machine: where layers run.
        num_params: parameters that are left.
        place: where the output goes.
        needs: memory.
    """

    config: PruneConfig
    checkpoint: Checkpoint
    mixture: Mixture
    tried: Tried
    files: Files
    tokenizer: Any
    windows_BT: Tensor
    machine: Machine
    num_params: int
    place: Place
    needs: memory.Needs

    @property
    def written_dtype(self) -> torch.dtype | None:
        """Of the written weights; None: each as it came."""
        return None if self.config.dtype == "auto" else self.machine.stored_dtype


def prepare(config: PruneConfig, say: Callable[[str], None]) -> Job:
    """Check all there is to check.

    Raises:
        SlimGPTError: something the user can mend.
    """
    config.check()
    device = devices.pick_device(config.device)
    checkpoint = open_stock(config.model, config.families)
    check_context(checkpoint.config, config.seqlen)
    mixture = find_mixture(checkpoint)
    files = files_of(checkpoint, mixture)
    stored_dtype = _stored(config, checkpoint)
    place = Place(config.out)
    place.check(checkpoint.path, checkpoint.num_params * stored_dtype.itemsize, config.force)
    tokenizer = checkpoint.tokenizer()
    tried = _rehearse(config, checkpoint, mixture, files, tokenizer)
    windows_BT = calibration.asked_windows(config, tokenizer, config.seed, say)
    check_rest(checkpoint, windows_BT, stored_dtype)
    machine = Machine(
        device=device,
        compute_dtype=devices.compute_dtype(checkpoint.dtype, device),
        stored_dtype=stored_dtype,
        batch_size=devices.pick_batch_size(config.batch_size, config.seqlen, device),
        offload_dir=None,
        processes=Processes(),
    )
    note_other_way(checkpoint, tokenizer, windows_BT, config.bos, device, machine.compute_dtype, say)
    num_params = parameters_left(checkpoint, mixture.dims, tried.num_kept)
    passage = passage_of(
        checkpoint, windows_BT, config.seqlen, machine.batch_size, device, machine.compute_dtype, stored_dtype
    )
    beside = {"tokens to try and refit by": _beside(config, passage, mixture, tried.repairs)}
    needs = memory.needs(_stages(passage, checkpoint, mixture, tried.per_token, num_params, beside), device)
    memory.check(needs, device, CURE, place.partial)
    return Job(
        config=config,
        checkpoint=checkpoint,
        mixture=mixture,
        tried=tried,
        files=files,
        tokenizer=tokenizer,
        windows_BT=windows_BT,
        machine=machine,
        num_params=num_params,
        place=place,
        needs=needs,
    )


def _rehearse(config: PruneConfig, checkpoint: Checkpoint, mixture: Mixture, files: Files, tokenizer: Any) -> Tried:
    """Decide how many stay, and try it on the first layer that has experts."""
    ids_T = short_window(checkpoint, tokenizer)[:REHEARSED]
    with closing(Rehearsal(checkpoint, mixture, ids_T)) as rehearsal:
        per_token = rehearsal.per_token
        num_kept = count_kept(mixture, config.experts or 0, config.experts_multiple_of, per_token)
        smaller_config = _smaller_config(checkpoint, mixture, num_kept, bool(files.left_out))
        smaller = empty_model(smaller_config).get_submodule(checkpoint.family.layers)
        assert isinstance(smaller, nn.ModuleList)
        rehearsal.check(smaller[min(mixture.paths)], num_kept)
        if config.expert_score == EXACT:
            rehearsal.check_rerouting()
        repairs = config.expert_repair is not False and rehearsal.can_repair(files)
    if config.expert_repair and not repairs:
        raise ConfigError(
            f"--expert-repair: the experts of model_type {checkpoint.config.model_type!r} do not end in a projection "
            "that could be refitted and written as it came: use --no-expert-repair."
        )
    smaller_config.dtype = _stored(config, checkpoint)
    return Tried(num_kept, per_token, smaller, smaller_config, repairs)


def _stored(config: PruneConfig, checkpoint: Checkpoint) -> torch.dtype:
    dtype: torch.dtype = checkpoint.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    return dtype


def _smaller_config(checkpoint: Checkpoint, mixture: Mixture, num_kept: int, heads_left_out: bool) -> Any:
    """The configuration with so many experts; layers whose weights are not written are not promised either."""
    config = with_numbers(checkpoint.config, {mixture.key: num_kept})
    for part in (config, config.get_text_config(decoder=True)):
        for name in MORE_HEADS if heads_left_out else ():
            if getattr(part, name, 0):
                setattr(part, name, 0)
    return config


def _beside(config: PruneConfig, passage: Passage, mixture: Mixture, repairs: bool) -> int:
    """Bytes of what exact errors and repair keep of a layer, on the device."""
    hidden, tried = passage.size.hidden, min(tried_tokens(mixture.num_experts), passage.tokens)
    grams = tried * (mixture.num_experts**2 + hidden) + CHUNK * mixture.num_experts * hidden
    fitted = REPAIRING * min(fitted_tokens(hidden), passage.tokens) * hidden
    return FLOAT32 * ((grams if config.expert_score == EXACT else 0) + (fitted if repairs else 0))


def _stages(
    passage: Passage,
    checkpoint: Checkpoint,
    mixture: Mixture,
    per_token: int,
    num_params: int,
    beside: dict[str, int],
) -> list[memory.Stage]:
    """The way through the layers, a layer without and with all its experts at once, and the folder."""
    size, written = passage.size, passage.written.itemsize
    first = min(mixture.paths)
    experts = checkpoint.layers[first].get_submodule(mixture.paths[first])
    width = min(size for one in experts.parameters() if one.dim() == 3 for size in one.shape[1:])
    routed = SiteSize(size.hidden, per_token * width, mixture.num_experts, kept=False)
    layers = {replace(layer, parts=((routed,),)): None for layer in size.layers}
    passes = [
        passage.stage(
            "a layer's pass",
            layer,
            size.hidden,
            {"a batch": passage.batch(layer), **beside},
            {"what is read": layer.params * written},
        )
        for layer in layers
    ]
    num_bytes = num_params * written
    stages = [passage.embedding(), *passes, passage.writing(merged_bytes(num_bytes))]
    return proved(stages, num_bytes, passage.written, passage.computed, passage.device)
