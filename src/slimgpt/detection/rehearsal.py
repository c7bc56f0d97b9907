"""Sliced = masked, tried on a layer of the hollow model, with the sizes and attributes that a checkpoint would have.

Shapes: N units of a site · I columns of its consumer · R rows of a producer · O outputs of a projection.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.detection.bench import Bench
from slimgpt.detection.decoder import last_line
from slimgpt.detection.growth import Growth
from slimgpt.detection.hollow import StandIn, is_stand_in, put_
from slimgpt.detection.numbers import dims_of, sizes_of
from slimgpt.modeling_by_path import resize_layer_
from slimgpt.sites import Kept, Site
from slimgpt.sites.projections import surviving_rows, tensors_of_rows

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def own_sizes(layer: nn.Module, cuts: Sequence[tuple[Site, Growth, Kept]]) -> dict[str, Any]:
    """What a layer needs that its stock constructor does not give it, for :func:`resize_layer_`."""
    sizes, changed = sizes_of(layer), set[str]()
    attributes: dict[str, dict[str, Any]] = {}
    config: dict[str, Any] = {}
    for site, growth, (units, members) in cuts:
        kept = site.members if members is None else members
        for (path, dim), by in _lost(layer, site, units, kept).items():
            sizes[path, dim] -= by
            changed.add(path)
        shares = units / site.num_units, kept / site.members
        for path, values in growth.values(*shares).items():
            attributes.setdefault(path, {}).update(values)
        config.update({key[0]: value for key, value in growth.settings(*shares).items() if len(key) == 1})
    shapes = {path: [size for (one, _), size in sizes.items() if one == path] for path in sorted(changed)}
    return {"tensors": shapes, "attributes": attributes, "config": config}


def _lost(layer: nn.Module, site: Site, units: int, members: int) -> dict[tuple[str, int], int]:
    whole = site.num_units * site.members
    lost: dict[tuple[str, int], int] = {}
    consumer, *_ = dims_of(layer, site)
    lost[consumer] = site.num_inputs * (whole - units * members) // whole
    for segment in site.producers:
        rows = site.num_units * segment.rows_per_unit
        gone = (
            rows * (whole - units * members) // whole
            if segment.by_member
            else segment.rows_per_unit * (site.num_units - units)
        )
        for dim in tensors_of_rows(layer, segment.path):
            lost[dim] = lost.get(dim, 0) + gone
    return lost


def half_of(site: Site) -> Tensor:
    """Flags of half of a site's units, at random."""
    shuffled_N = torch.randperm(site.num_units, generator=torch.Generator().manual_seed(0))
    return torch.zeros(site.num_units, dtype=torch.bool).scatter_(0, shuffled_N[: max(1, site.num_units // 2)], True)


def trials(site: Site) -> list[Tensor]:
    """Flags of units that stay: half of them at random, one, all but one; and half of the members of each."""
    last_N = torch.arange(site.num_units) == site.num_units - 1
    some = [half_of(site), last_N, ~last_N]
    if site.members > 1:
        some.append((torch.arange(site.members) < site.members // 2).repeat(site.num_units))
    return some


def rehearse(bench: Bench, site: Site, growth: Growth, kept_N: Tensor) -> str | None:
    """Why a layer without the units (or members) flagged False is not the layer that does not read them.

    None if it is.
    """
    hidden = bench.stream(bench.most_windows or 2)
    with unchanged(bench.layer):
        mask_(bench.layer, site, kept_N)
        masked = trace(bench, hidden)
    with unchanged(bench.layer):
        try:
            cut_(bench.layer, [(site, growth, kept_N)])
            sliced = trace(bench, hidden)
        except Exception as error:  # the code of any model may stumble in any way
            return f"the layer does not run without some of them ({type(error).__name__}: {last_line(error)})"
    columns_I = site.kept_columns(kept_N)
    masked[site.consumer] = masked[site.consumer][..., columns_I]
    for name, value in masked.items():
        other = sliced.get(name)
        if other is None or other.shape != value.shape or not torch.allclose(other, value, equal_nan=True, **CLOSE):
            return f"without some of them {'its inputs' if name == site.consumer else 'something else'} changes"
    return None


def trace(bench: Bench, hidden: Tensor) -> dict[str, Tensor]:
    """What enters every projection of a layer, and what leaves the layer."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for path, module in bench.layer.named_modules():
            if is_stand_in(module):
                hook = module.register_forward_pre_hook(lambda _, args, path=path: seen.update({path: args[0]}))
                stack.callback(hook.remove)
        result, _ = bench.run(hidden)
    seen.update(
        {f"returned {path}": one for path, one in tensors_in(result[:1] if isinstance(result, tuple) else result)}
    )
    return {name: one.float() if one.is_floating_point() else one for name, one in seen.items()}


def tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in containers in containers."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from tensors_in(one, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from tensors_in(one, f"{path}.{index}")


def mask_(layer: nn.Module, site: Site, kept_N: Tensor) -> None:
    """The consumer reads nothing of the columns that would go."""
    consumer = layer.get_submodule(site.consumer)
    consumer.forward = _reading(consumer, site.kept_columns(kept_N), renumber=False)


def cut_(layer: nn.Module, cuts: Sequence[tuple[Site, Growth, Tensor]]) -> None:
    """Cut units (or members) of one or more sites out of a hollow layer, as loading a pruned checkpoint would."""
    plain = dict(layer.named_parameters())
    sizes = [(site, growth, Kept(*_counts(site, kept_N))) for site, growth, kept_N in cuts]
    resize_layer_(layer, own_sizes(layer, sizes))
    for site, _, kept_N in cuts:
        _keep_(layer, plain, site, kept_N)


def _keep_(layer: nn.Module, plain: Mapping[str, nn.Parameter], site: Site, kept_N: Tensor) -> None:
    """Of a site's tensors, which have their new sizes, what stays."""
    rows = {path: plain[path] for path in {segment.path for segment in site.producers} if path in plain}
    for path, whole in rows.items():
        put_(layer, path, whole.data[surviving_rows(len(whole), site, path, kept_N)])
    consumer = layer.get_submodule(site.consumer)
    consumer.forward = _reading(consumer, site.kept_columns(kept_N), renumber=True)
    for path in {segment.path for segment in site.producers} - set(rows):
        producer: Any = layer.get_submodule(path)
        stand_in = copy.copy(producer.forward)
        stand_in.reads_O = stand_in.reads_O[surviving_rows(len(stand_in.reads_O), site, path, kept_N)]
        producer.forward = stand_in


def _counts(site: Site, kept_N: Tensor) -> tuple[int, int]:
    of_unit = kept_N.view(site.num_units, -1).sum(1)
    units = int((of_unit > 0).sum())
    return units, site.members * int(of_unit.max()) // (len(kept_N) // site.num_units)


def _reading(consumer: Any, kept_I: Tensor, renumber: bool) -> StandIn:
    stand_in: StandIn = copy.copy(consumer.forward)
    number_I = kept_I.cumsum(0) - 1 if renumber else torch.arange(len(kept_I))
    read_O = stand_in.reads_O
    gone_O = (read_O < 0) | ~kept_I[read_O]
    stand_in.reads_O = number_I[read_O].masked_fill(gone_O, -1)
    return stand_in


@contextmanager
def unchanged(layer: nn.Module) -> Iterator[None]:
    """Whatever happens to a layer's modules inside, afterwards it has not."""
    modules = [(module, dict(module.__dict__), dict(module._parameters)) for module in layer.modules()]
    try:
        yield
    finally:
        for module, attributes, parameters in modules:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
