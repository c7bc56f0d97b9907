"""What only the whole hollow model shows: that layers can be run one at a time, and cut all at once.

Shapes: B windows · T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.detection.bench import forward_replaced
from slimgpt.detection.decoder import Call, Decoder, find_decoder, last_line
from slimgpt.detection.findings import LayerFindings, Place, Refusal
from slimgpt.detection.rehearsal import CLOSE, cut_, half_of, mask_, tensors_in, unchanged


def calls_of(model: nn.Module, decoder: Decoder, ids_BT: Tensor) -> list[Call]:
    """How the body calls its layers when none of them does anything to the residual stream."""
    layers = decoder.layers_of(model)
    calls: list[Call] = []

    def passing(like: Call) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = kwargs.pop(like.named) if like.named else args[0]
            calls.append(Call(hidden, args if like.named else args[1:], kwargs, like.named, hidden, like.returns))
            return (hidden, *[None] * (like.returns - 1)) if like.returns else hidden

        return forward

    with ExitStack() as stack, torch.inference_mode():
        for layer, like in zip(layers, decoder.calls, strict=True):
            stack.enter_context(forward_replaced(layer, passing(like)))
        model(input_ids=ids_BT, use_cache=False)
    return calls


def stream(model: nn.Module, decoder: Decoder, calls: Sequence[Call], hidden: Tensor) -> Tensor:
    """A residual stream carried through one layer after the other with the arguments of ``calls``."""
    with torch.inference_mode():
        for layer, call in zip(decoder.layers_of(model), calls, strict=True):
            result, _ = call.again(layer, hidden)
            hidden = result[0] if isinstance(result, tuple) else result
    return hidden


def why_not_streamed(model: nn.Module, decoder: Decoder, ids_BT: Tensor) -> str | None:
    """Why layers that are run one at a time, each with arguments that were noted before any ran, do not do what they do
    in the model; None if they do.
    """
    whole = find_decoder(model, ids_BT).calls
    try:
        out = stream(model, decoder, calls_of(model, decoder, ids_BT), whole[0].hidden)
    except Exception as error:  # the code of any model may stumble in any way
        return f"its layers do not run one at a time ({type(error).__name__}: {last_line(error)})"
    if not _close(out, whole[-1].output):
        return "its layers do something else when they run one at a time"
    if _arguments_vary(model, decoder, ids_BT):
        return "its layers are told something of each text beside the residual stream"
    return None


def reads_ahead(model: nn.Module, ids_BT: Tensor) -> bool:
    """What the model says of the first tokens depends on the last: it does not write text from left to right."""
    other_BT = ids_BT.clone()
    other_BT[:, -1] += 1
    return not _close(_logits(model, ids_BT)[:, :-1], _logits(model, other_BT)[:, :-1])


def _arguments_vary(model: nn.Module, decoder: Decoder, ids_BT: Tensor) -> bool:
    """The arguments of one window do not serve another: layers are told something of the tokens."""
    first, last = calls_of(model, decoder, ids_BT[:1]), calls_of(model, decoder, ids_BT[-1:])
    return any(_told(one) != _told(other) for one, other in zip(first, last, strict=True))


def _told(call: Call) -> list[Any]:
    return [(path, one.tolist()) for path, one in tensors_in((call.args, call.kwargs))]


def holding_together(
    model: nn.Module, decoder: Decoder, findings: Sequence[LayerFindings], ids_BT: Tensor
) -> tuple[LayerFindings, ...]:
    """The places that can be cut all at once. Where something hands on to later layers what it has made of its units,
    such as keys and values, it is found by adding part after part, and layer after layer.
    """
    if all_cut(model, decoder, findings, ids_BT) is None:
        return tuple(findings)
    held = [LayerFindings((), found.refusals) for found in findings]
    for part in sorted({place.site.part for found in findings for place in found.places}):
        places = [[place for place in found.places if place.site.part == part] for found in findings]
        if all_cut(model, decoder, _with(held, places), ids_BT) is None:
            held = _with(held, places)
            continue
        for index, of_layer in enumerate(places):
            alone = [of_layer if layer == index else [] for layer in range(len(places))]
            why = all_cut(model, decoder, _with(held, alone), ids_BT)
            if why is None:
                held = _with(held, alone)
            else:
                refusals = tuple(Refusal(place.site.consumer, why) for place in of_layer)
                held[index] = LayerFindings(held[index].places, held[index].refusals + refusals)
    return tuple(held)


def _with(held: Sequence[LayerFindings], more: Sequence[Sequence[Place]]) -> list[LayerFindings]:
    return [LayerFindings((*one.places, *places), one.refusals) for one, places in zip(held, more, strict=True)]


def all_cut(model: nn.Module, decoder: Decoder, findings: Sequence[LayerFindings], ids_BT: Tensor) -> str | None:
    """Why the model without half of all units is not the model that does not read them; None if it is."""
    layers = decoder.layers_of(model)
    cuts = [[(place.site, place.growth, half_of(place.site)) for place in found.places] for found in findings]
    with unchanged(model):
        for layer, of_layer in zip(layers, cuts, strict=True):
            for site, _, kept_N in of_layer:
                mask_(layer, site, kept_N)
        masked = _logits(model, ids_BT)
    with unchanged(model):
        try:
            for layer, of_layer in zip(layers, cuts, strict=True):
                cut_(layer, of_layer)
            sliced = _logits(model, ids_BT)
        except Exception as error:  # the code of any model may stumble in any way
            return f"the model does not run without some of them ({type(error).__name__}: {last_line(error)})"
    return None if _close(sliced, masked) else "without some of them the rest of the model does something else"


def _logits(model: Any, ids_BT: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids_BT, use_cache=False).logits
    return logits


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), equal_nan=True, **CLOSE)
