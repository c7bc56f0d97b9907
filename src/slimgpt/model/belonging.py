"""Whether a configuration and the weights beside it belong together, and what they are if they do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from slimgpt.errors import ModelError
from slimgpt.model.weights import Weights

HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "RewardModel")
"""Ends of the names of classes that judge texts and do not write them."""


class Wrapping(NamedTuple):
    """What has given the tensors their strange names, and how to get plain ones."""

    what: str
    cure: str


WRAPPINGS: Mapping[str, Wrapping] = {
    "_orig_mod.": Wrapping("were saved from a model that torch.compile had wrapped", "save model._orig_mod instead"),
    "language_model.": Wrapping(
        "are the language part of a larger model, such as one that sees images",
        "load that, and save its language model alone",
    ),
    "base_model.model.": Wrapping(
        "are those of a model with adapters by peft", "save what its merge_and_unload() gives back"
    ),
    "module.": Wrapping("were saved from a model wrapped for several devices", "save model.module instead"),
}
"""By what stands in the names."""


def check_belong(path: Path, skeleton: Any, weights: Weights, layers: str) -> None:
    """See that the weights are those of the model that the configuration describes, all of them numbers.

    Raises:
        ModelError: they are another model's, or wrapped, or some are missing, or of another shape or kind of number.
    """
    _check_names(path, skeleton, weights)
    _check_head(path, skeleton, weights)
    _check_tensors(path, skeleton, weights)
    _check_tie(path, skeleton, weights)
    if not any(name.startswith(f"{layers}.") for name, _ in skeleton.named_parameters()):
        raise ModelError(
            f"{path}: its configuration says that there are no decoder layers, so there is nothing to work on."
        )


def check_writes(path: Path, settings: Mapping[str, Any], weights: Weights) -> None:
    """Refuse models that judge texts: reward models, classifiers.

    Raises:
        ModelError: the class that the configuration names, or the head that is stored, is not one for words.
    """
    named = settings.get("architectures")
    judges = [name for name in named if str(name).endswith(HEADS)] if isinstance(named, list) else []
    heads = [name for name in weights.names() if name in ("score.weight", "classifier.weight")]
    if judges or heads:
        raise ModelError(
            f"{path} is a {judges[0] if judges else 'classifier'}: it judges texts{f' by {heads[0]}' if heads else ''} "
            "and predicts no words, and slimgpt makes models smaller that do. Name the language model it was trained "
            "from, and train the head anew on the smaller one."
        )


def _check_names(path: Path, skeleton: nn.Module, weights: Weights) -> None:
    """Names that would be right but for what stands in front of them, or inside."""
    stored = list(weights.names())
    there = set(stored)
    missing = next((name for name, _ in skeleton.named_parameters() if name not in there), None)
    if missing is None:
        return
    for mark, (what, cure) in WRAPPINGS.items():
        wrapped = next((name for name in stored if mark in name), None)
        if wrapped is not None:
            raise ModelError(f"{path}: its tensors {what} ({wrapped!r} in place of {missing!r}): {cure}.")
    longer = next((name for name in stored if name.endswith(f".{missing}")), None)
    if longer is not None:
        raise ModelError(
            f"{path}: the names of its tensors have {longer.removesuffix(missing)!r} in front ({longer!r} in place of "
            f"{missing!r}): save them without it."
        )


def _check_head(path: Path, skeleton: Any, weights: Weights) -> None:
    head, _, tied = _ends(skeleton)
    if not tied and head not in set(weights.names()):
        raise ModelError(
            f"{path}: tensor {head!r} is missing, and config.json says that it is not the embedding. Set "
            "tie_word_embeddings to true if it is, else download the checkpoint again."
        )


def _check_tensors(path: Path, skeleton: nn.Module, weights: Weights) -> None:
    present = set(weights.names())
    for name, parameter in skeleton.named_parameters():
        if name not in present:
            raise ModelError(f"{path}: tensor {name!r} is missing. config.json and the weights do not belong together.")
        if weights.shape(name) != tuple(parameter.shape):
            raise ModelError(
                f"{path}: tensor {name!r} has shape {list(weights.shape(name))}, but config.json says "
                f"{list(parameter.shape)}. They do not belong together."
            )
        if not isinstance(weights.dtype(name), torch.dtype):
            raise ModelError(
                f"{path} stores {name!r} as {weights.dtype(name)}, which cannot be repaired: name the original model "
                "in float32, float16 or bfloat16."
            )


def _check_tie(path: Path, skeleton: Any, weights: Weights) -> None:
    """Configuration and weights have to agree on whether the head is the embedding or a matrix of its own."""
    head, embedding, tied = _ends(skeleton)
    if not tied or head not in set(weights.names()):
        return
    like = all(told(head) == told(embedding) for told in (weights.shape, weights.dtype))
    if not (like and torch.equal(weights.get(head), weights.get(embedding))):
        raise ModelError(
            f"{path}: config.json says tie_word_embeddings, but {head!r} differs from {embedding!r}. Set it "
            "to false, or remove the tensor, whichever is right."
        )


def _ends(skeleton: Any) -> tuple[str, str, bool]:
    """Names of the weights of head and embedding, and whether they are one."""
    head, embedding = skeleton.get_output_embeddings(), skeleton.get_input_embeddings()
    names = {id(module): f"{name}.weight" for name, module in skeleton.named_modules()}
    return names[id(head)], names[id(embedding)], head.weight is embedding.weight
