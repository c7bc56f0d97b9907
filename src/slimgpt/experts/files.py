"""The tensors of a model without some of its experts, each called as its files call it and in their dtype.

A file may hold a layer's experts in one tensor, or one tensor for each: as they came, so they are written.

Shapes: N experts that stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimgpt.errors import ModelError
from slimgpt.experts.mixture import Mixture
from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.conversion import Converted, Source
from slimgpt.model.weights import Weights


@dataclass(frozen=True)
class Piece:
    """A stored tensor, or several that become one parameter.

    Attributes:
        stored: names in the files.
        makes: names of what is made from it in the model.
        layer: whose it is; None where it is no layer's.
        dim: the dimension of experts; None where each has tensors of its own, or none here.
        by_expert: each tensor is an expert's.
    """

    stored: tuple[str, ...]
    makes: tuple[str, ...]
    layer: int | None
    dim: int | None = None
    by_expert: bool = False

    def cut(self, weights: Weights, kept_N: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What is written: names and tensors."""
        if self.by_expert:
            for name, old in zip(self.stored, kept_N.tolist(), strict=False):
                yield name, weights.get(self.stored[old])
            return
        for name in self.stored:
            tensor = weights.get(name)
            yield name, tensor if self.dim is None else tensor.index_select(self.dim, kept_N)

    def renewed(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The same of a parameter that is another now."""
        yield from zip(self.stored, tensor, strict=False) if self.by_expert else ((self.stored[0], tensor),)


@dataclass(frozen=True)
class Files:
    """All of a model.

    Attributes:
        weights: the tensors as they are stored.
        pieces: those that the model reads.
        left_out: names of those that it does not: of heads for several tokens, say.
    """

    weights: Weights
    pieces: tuple[Piece, ...]
    left_out: tuple[str, ...]

    def layer(
        self, index: int | None, kept_N: Tensor, dtype: torch.dtype | None, renewed: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The tensors of one layer, or (None) outside them, with the experts that stay alone, in ``dtype`` or (None) as
        they came; ``renewed`` are parameters of the model, so cut, that are others now.
        """
        written: dict[str, Tensor] = {}
        for piece in self.pieces:
            if piece.layer == index:
                new = (renewed or {}).get(piece.makes[0])
                for name, tensor in piece.cut(self.weights, kept_N) if new is None else piece.renewed(new):
                    written[name] = tensor.to(dtype or self.weights_dtype(name)).contiguous()
        return written

    def weights_dtype(self, name: str) -> torch.dtype:
        """Of a stored tensor."""
        dtype = self.weights.dtype(name)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def can_renew(self, name: str, whole: Tensor) -> bool:
        """A parameter's tensors in the files are the parameter itself, in one or by expert."""
        pieces = [piece for piece in self.pieces if name in piece.makes]
        if len(pieces) != 1 or len(pieces[0].makes) > 1:
            return False
        return all(torch.equal(self.weights.get(stored), one) for stored, one in pieces[0].renewed(whole))


def files_of(checkpoint: Checkpoint, mixture: Mixture) -> Files:
    """What the files of an opened model hold.

    Raises:
        ModelError: they hold experts in a way that cannot be cut.
    """
    view = checkpoint.weights
    assert isinstance(view, Converted)
    known = set(checkpoint.skeleton.state_dict())
    used = [source for source in view.sources() if known & set(source.makes)]
    others = [source for source in view.sources() if not known & set(source.makes)]
    pieces = tuple(_piece(checkpoint, mixture, view.stored, source) for source in used)
    return Files(view.stored, pieces, tuple(sorted(name for source in others for name in source.stored)))


def _piece(checkpoint: Checkpoint, mixture: Mixture, weights: Weights, source: Source) -> Piece:
    layer = _layer_of(checkpoint, source.makes[0])
    dims = {mixture.dims.get(name) for name in source.makes}
    if dims == {None}:
        return Piece(source.stored, source.makes, layer)
    if source.alone:
        return Piece(source.stored, source.makes, layer, dim=mixture.dims[source.makes[0]])
    if len(source.stored) == mixture.num_experts and _numbered(source.stored):
        return Piece(source.stored, source.makes, layer, by_expert=True)
    if len(source.stored) == 1 and dims == {0} and weights.shape(source.stored[0])[:1] == (mixture.num_experts,):
        return Piece(source.stored, source.makes, layer, dim=0)
    raise ModelError(
        f"{checkpoint.source}: {source.stored[0]!r} holds experts in a form that cannot be cut. Save the model anew "
        "with transformers first: AutoModelForCausalLM.from_pretrained(MODEL).save_pretrained(FOLDER)."
    )


def _layer_of(checkpoint: Checkpoint, name: str) -> int | None:
    inside = checkpoint.family.layers + "."
    return int(name.removeprefix(inside).partition(".")[0]) if name.startswith(inside) else None


def _numbered(names: Sequence[str]) -> bool:
    """The names differ by one number, which counts them."""
    split = [name.split(".") for name in names]
    places = [place for place, parts in enumerate(zip(*split, strict=True)) if len(set(parts)) > 1]
    return len(places) == 1 and [parts[places[0]] for parts in split] == [str(number) for number in range(len(names))]


def parameters_left(checkpoint: Checkpoint, dims: Mapping[str, int], num_kept: int) -> int:
    """Parameters of the model with so many experts a layer."""
    left = 0
    for name, parameter in checkpoint.skeleton.named_parameters():
        whole = parameter.numel()
        left += whole if name not in dims else whole // parameter.shape[dims[name]] * num_kept
    return left
