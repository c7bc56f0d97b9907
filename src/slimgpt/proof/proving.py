"""prove(): a finished folder against what the run knows of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimgpt.errors import ProofError, last_line
from slimgpt.machine import host
from slimgpt.machine.full_disk import full_disk
from slimgpt.machine.versions import versions
from slimgpt.model.checkpoint import Checkpoint, open_checkpoint
from slimgpt.proof.agreement import TOLERANCES, agreement
from slimgpt.proof.memory import SMALL, weights_bytes
from slimgpt.proof.opening import Unproved, check_files, open_model, quiet_transformers
from slimgpt.proof.witness import Witness, alone, run_through

PROMPT, NUM_GENERATED = 16, 4  # tokens
NOTHING_KEPT = "It is left there for a look, until the next run."
LOGITS = "the logits of a window differ from those that the run computed"
CACHE = "the logits of generated tokens differ with a cache and without"
WHOLE, LAYERS = "whole", "layer by layer"


def prove(
    folder: Path,
    witness: Witness,
    tokenizer: Any,
    room: int | None,
    kept: str = NOTHING_KEPT,
    opens: Callable[[str], Checkpoint] = open_checkpoint,
) -> dict[str, Any]:
    """Open a finished folder as its users will; what was checked, for the record.

    Names and shapes of all tensors, modelling file, settings and tokenizer for any size. The logits of a window, and
    generation with a cache, by the whole model where that takes no more memory than the run has announced; else the
    logits alone, layer by layer.

    Args:
        folder: what will become OUT.
        witness: what the run has computed itself.
        tokenizer: the model's.
        room: bytes of memory that the run may take, where it has announced that.
        kept: what becomes of the work where this fails, a sentence.
        opens: what opens it for a pass layer by layer.

    Raises:
        ProofError: the folder is not what was made.
    """
    with _failures_named(folder, kept), quiet_transformers():
        whole = _fits(folder, witness, room)
        model = open_model(folder, witness.device if whole else torch.device("meta"), witness.dtype)
        check_files(folder, model.config, tokenizer)
        return {
            "class": type(model).__name__,
            "tensors": len(list(model.parameters())),
            "forward": WHOLE if whole else LAYERS,
            "tokens": len(witness.ids_T),
            "dtype": str(witness.dtype).removeprefix("torch."),
            "tolerance": TOLERANCES[witness.precision],
            "differences": _by_the_whole(model, witness) if whole else _by_layers(opens(str(folder)), witness),
        }


def _fits(folder: Path, witness: Witness, room: int | None) -> bool:
    """The whole model has room: on a GPU in what is free of it, elsewhere in what the run may take, or in half of what
    is free.
    """
    files = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    weights = weights_bytes(files, witness.stored_dtype, witness.dtype, witness.device)
    if witness.device.type == "cuda":
        return weights <= torch.cuda.mem_get_info(witness.device)[0]
    free = host.free_bytes()
    return weights + files <= min(max(free // 2 if room is None else room, SMALL), free)  # files are mapped meanwhile


@torch.inference_mode()
def _by_the_whole(model: Any, witness: Witness) -> dict[str, float]:
    """Differences of the window's logits, and of generated tokens' logits with and without a cache."""
    ids_1T = witness.ids_T[None].to(witness.device)
    found_KV = _last_logits(model, ids_1T, len(witness.logits_KV))
    found = {"logits": _compared(LOGITS, witness.logits_KV, found_KV, witness)}
    num_generated = min(NUM_GENERATED, ids_1T.shape[1] - 1)
    if num_generated:
        found |= _cached(model, ids_1T, num_generated, witness)
    return found


def _cached(model: Any, ids_1T: Tensor, num: int, witness: Witness) -> dict[str, float]:
    """The difference that a cache makes. Where it makes one in the model that this one was made from as well, as with
    prompts that see all of themselves, ours is left out and that one said.
    """
    with_cache_NV, without_NV = _generated(model, ids_1T, num)
    try:
        return {"cache": _compared(CACHE, without_NV, with_cache_NV, witness)}
    except Unproved:
        model.to("meta")  # it has said all that it is asked
        found = _cached_of_source(witness, ids_1T, num)
        if not found > TOLERANCES[witness.precision]:
            raise
        return {"source_cache": found}


def _cached_of_source(witness: Witness, ids_1T: Tensor, num: int) -> float:
    """The difference that a cache makes in the model that this one was made from; 0 where that is no folder."""
    if not witness.source.is_dir():
        return 0.0
    source = open_model(witness.source, witness.device, witness.dtype)
    with_cache_NV, without_NV = _generated(source, ids_1T, num)
    return agreement(without_NV, with_cache_NV).difference


def _generated(model: Any, ids_1T: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Logits of the tokens that follow a few: step by step with a cache, and in one pass without."""
    prompt = ids_1T[:, : min(PROMPT, ids_1T.shape[1] - num)]
    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num,
        min_new_tokens=num,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return torch.cat(made.logits).float().cpu(), _last_logits(model, made.sequences[:, :-1], num)


def _last_logits(model: Any, ids_1T: Tensor, num: int) -> Tensor:
    """K x V, without a cache."""
    few = {"logits_to_keep": num} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits_1TV = model(ids_1T, attention_mask=torch.ones_like(ids_1T), use_cache=False, **few).logits
    return logits_1TV[0, -num:].float().cpu()


def _by_layers(checkpoint: Checkpoint, witness: Witness) -> dict[str, float]:
    """The window's logits with one layer in memory at a time."""
    layers = ((index, checkpoint.layer_state(index)) for index in range(len(checkpoint.layers)))
    machine = alone(witness.device, witness.dtype, checkpoint.dtype)
    found = run_through(checkpoint, witness.ids_T, layers, machine)
    return {"logits": _compared(LOGITS, witness.logits_KV, found.logits_KV, witness)}


def _compared(what: str, expected_KV: Tensor, found_KV: Tensor, witness: Witness) -> float:
    """The difference.

    Raises:
        Unproved: it is more than rounding explains.
    """
    found, tolerance = agreement(expected_KV, found_KV), TOLERANCES[witness.precision]
    if not found.difference <= tolerance:
        dtype = str(witness.precision).removeprefix("torch.")
        raise Unproved(f"{what}: {found}, where {dtype} explains {tolerance:.1%}")
    return found.difference


@contextmanager
def _failures_named(folder: Path, kept: str) -> Iterator[None]:
    """Whatever goes wrong with a folder that we have made ourselves is to be reported, with all that it depends on."""
    try:
        yield
    except Exception as error:
        if full_disk(error):
            raise
        reason = str(error) if isinstance(error, Unproved) else f"it cannot be opened ({last_line(error)})"
        used = ", ".join(f"{name} {version}" for name, version in versions().items())
        raise ProofError(
            f"{folder} was to become the output, but is not the model that was made: {reason}. {kept} Please report "
            f"this, with these versions: {used}."
        ) from error
