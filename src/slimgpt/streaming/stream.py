"""Carries the calibration tokens through the model, one decoder layer at a time.

For each layer the stream holds the residual stream that enters it. ``observe`` runs the layer only as far as a site's
consumer, gathers the statistics of what would enter it, and keeps that input. Once the site is pruned, its block is not
run again: ``W' x_kept`` on the kept input *is* the block's output, because the surviving columns do not change when
other columns go. So no block of a layer runs twice; only the attention's consumer does, once for the FFN's statistics
and once to advance. (On a GPU the pruned FFN runs again: its wide input would have to go to the host and back.)

Shapes: B windows · T tokens a window · D residual width · I consumer inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from slimgpt.model.checkpoint import Checkpoint
from slimgpt.model.embeddings_and_head import Calls, embeddings, first_input, forward_replaced, layer_calls
from slimgpt.sites import Removal, Site
from slimgpt.solvers.stats import GapStats, InputStats
from slimgpt.streaming.activations import ActivationRoom
from slimgpt.streaming.catching import inputs_of
from slimgpt.streaming.conveyor import Conveyor, conveyor

ROUNDING = 0.02  # share of a layer's change of the residual stream that bfloat16 sums may be off by


def keeps_input(site: Site, device: torch.device) -> bool:
    """The input of a site's consumer is kept, to answer for its block once the site is pruned."""
    return site.block is not None and (device.type == "cpu" or not site.fine)


@dataclass(frozen=True)
class Targets:
    """What the dense model has behind each site's block, for the pruned one to come near to.

    Attributes:
        of_site: B x T x O by the site's name: the residual stream, or the consumer's output alone.
        with_residual: it is the residual stream. So it is wherever blocks only add to it; where norms or experts stand
            between a consumer and the stream, an error made earlier cannot be made up for by adding to the output.
    """

    of_site: dict[str, Conveyor]
    with_residual: bool


class ActivationStream:
    """The residual stream of all calibration windows in front of one decoder layer.

    Args:
        checkpoint: the model; its embeddings are read here.
        windows_BT: int64 token ids.
        device: where layers run.
        dtype: dtype in which layers run.
        batch_size: windows in one forward pass.
        room: where the residual stream and the kept inputs lie.
        progress: called with the number of tokens after each batch of each pass.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        windows_BT: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        room: ActivationRoom,
        progress: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._batch_size = batch_size
        self._progress = progress
        self._room = room
        self._calls = Calls({})
        self._hidden = Conveyor(torch.empty(0), device, dtype)
        self._inputs: dict[str, Conveyor] = {}
        self._pruned: dict[str, tuple[Site, Tensor]] = {}
        self._embed(checkpoint, windows_BT)

    @property
    def residual_BTD(self) -> Tensor:
        """The residual stream in front of the next layer, on the device: to be read only."""
        return self._hidden.take(slice(0, len(self._hidden.host)))

    @torch.inference_mode()
    def observe(
        self,
        layer: nn.Module,
        index: int,
        sites: Sequence[Site],
        stats: Mapping[str, InputStats | GapStats] | None = None,
        targets: Targets | None = None,
    ) -> None:
        """Run ``layer`` up to the consumers of ``sites``, keep what would enter them, and add it to ``stats``.

        ``stats``, by the names of the sites, is None when the layer is only replayed from the journal. Several sites
        are experts: each sees the tokens that are routed to it, if any. :class:`GapStats` learn
        how far the pruned path is from its ``targets``.
        """
        for rows in self._batches():
            with self._finished_blocks(layer, rows):
                caught = inputs_of(sites, layer, partial(self._run, layer, index, rows))
            for site, x in caught:
                gathered = stats[site.name] if stats is not None else None
                if isinstance(gathered, GapStats):
                    assert targets is not None
                    gathered.update(x, self._gap(layer, site, x, rows, targets), rows.start)
                elif gathered is not None:
                    gathered.update(x.flatten(0, -2))
                if keeps_input(site, self._device):
                    self._keep(site.name, rows, x)
            self._progress(self._hidden.host[rows].shape[:2].numel())
        self._settle()

    @torch.inference_mode()
    def observe_behind(
        self,
        run: Callable[[Tensor], Tensor],
        model: nn.Module,
        sites: Sequence[Site],
        stats: Mapping[str, InputStats | GapStats],
    ) -> None:
        """Run what lies behind the last layer up to the consumers of ``sites``, and add what would enter them to
        ``stats``; ``run`` takes the residual stream that leaves the last layer.
        """
        for rows in self._batches():
            for site, x in inputs_of(sites, model, partial(run, self._hidden.take(rows))):
                gathered = stats[site.name]
                assert isinstance(gathered, InputStats)  # there is no target behind the layers
                gathered.update(x.flatten(0, -2))

    def _gap(self, layer: nn.Module, site: Site, x_BTI: Tensor, rows: slice, targets: Targets) -> Tensor:
        """What is missing behind a site's block before the site is pruned, in float32."""
        here_BTO = layer.get_submodule(site.consumer)(x_BTI).float()
        if targets.with_residual:
            here_BTO += self._hidden.take(rows).to(here_BTO)
            for _, output in self._outputs_of_pruned(layer, rows):
                here_BTO += output.float()
        return targets.of_site[site.name].take(rows).to(here_BTO) - here_BTO

    def _keep(self, name: str, rows: slice, x_BTI: Tensor) -> None:
        if name not in self._inputs:
            self._inputs[name] = self._conveyor(name, x_BTI.shape[-1])
        self._inputs[name].put(rows, x_BTI)

    def pruned(self, site: Site, removal: Removal) -> None:
        """Take note that ``site`` is pruned: from here on its block's output comes from the kept input; one of which
        nothing is left puts out nothing.
        """
        if keeps_input(site, self._device) or (site.block is not None and not removal.kept_N.any()):
            columns_I = site.kept_columns(removal.kept_N).nonzero().squeeze(1)
            self._pruned[site.name] = (site, columns_I.to(self._device))

    @torch.inference_mode()
    def visit(self, layer: nn.Module, index: int) -> None:
        """Run ``layer`` for what hooks on it see; the residual stream stays where it is."""
        for rows in self._batches():
            output = self._run(layer, index, rows)
            self._progress(output.shape[0] * output.shape[1])

    @torch.inference_mode()
    def advance(self, layer: nn.Module, index: int) -> None:
        """Carry the residual stream through the pruned layer, and forget what was kept for it."""
        for rows in self._batches():
            with self._finished_blocks(layer, rows):
                output = self._run(layer, index, rows)
            self._hidden.put(rows, output)
            self._progress(output.shape[0] * output.shape[1])
        self._settle()
        self._inputs.clear()
        self._pruned.clear()

    @torch.inference_mode()
    def advance_dense(self, layer: nn.Module, index: int, sites: Sequence[Site]) -> Targets:
        """Carry the residual stream through a layer that is not pruned, and note what it has behind each block.

        Experts have no target: what is routed to them in the dense model is not what is routed to them in the other.
        """
        of_site: dict[str, Conveyor] = {}
        additive = True
        blocks = [site for site in sites if site.block is not None]
        for rows in self._batches():
            before_BTD = self._hidden.take(rows)
            after_BTD, outputs = self._run_watched(layer, index, rows, blocks)
            if rows.start == 0:
                additive = len(blocks) == len(sites) and _adds_up(before_BTD, outputs, after_BTD)
            stream_BTD = before_BTD
            for site, output in zip(blocks, outputs, strict=True):
                stream_BTD = stream_BTD + output if additive else stream_BTD
                if site.name not in of_site:
                    of_site[site.name] = self._conveyor(site.name, output.shape[-1])
                of_site[site.name].put(rows, stream_BTD if additive else output)
            self._hidden.put(rows, after_BTD)
            self._progress(after_BTD.shape[0] * after_BTD.shape[1])
        self._settle(of_site)
        return Targets(of_site, additive)

    def _run_watched(
        self, layer: nn.Module, index: int, rows: slice, sites: Sequence[Site]
    ) -> tuple[Tensor, list[Tensor]]:
        """The layer's output and those of the sites' consumers."""
        outputs: dict[str, Tensor] = {}

        def watch(name: str) -> Callable[..., None]:
            return lambda module, args, output: outputs.update({name: output})

        with ExitStack() as stack:
            for site in sites:
                stack.callback(layer.get_submodule(site.consumer).register_forward_hook(watch(site.name)).remove)
            after_BTD = self._run(layer, index, rows)
        return after_BTD, [outputs[site.name] for site in sites]

    def residual(self, rows: slice) -> Tensor:
        """The residual stream of these windows in front of the next layer, B x T x D, to be read only."""
        return self._hidden.take(rows)

    def output(self, layer: nn.Module, index: int) -> Tensor:
        """What ``layer`` makes of all windows at once, B x T x D; the residual stream stays where it is."""
        return self._run(layer, index, slice(0, len(self._hidden.host)))

    def close(self) -> None:
        """Give the activations' space back."""
        self._inputs.clear()
        self._hidden = Conveyor(torch.empty(0), self._device, self._dtype)
        self._room.close()

    def _conveyor(self, name: str, width: int, windows: torch.Size | None = None) -> Conveyor:
        """Room for as many numbers a token, of all windows."""
        windows = self._hidden.host.shape[:-1] if windows is None else windows
        return conveyor(self._room.empty(name, (*windows, width)), self._device, self._dtype)

    def _settle(self, others: Mapping[str, Conveyor] | None = None) -> None:
        """End a pass: every batch is where it was sent."""
        for each in (self._hidden, *self._inputs.values(), *(others or {}).values()):
            each.settle()

    def _batches(self) -> Iterator[slice]:
        total = len(self._hidden.host)
        for start in range(0, total, self._batch_size):
            yield slice(start, min(start + self._batch_size, total))
            self._room.let_go()

    def _run(self, layer: nn.Module, index: int, rows: slice) -> Tensor:
        args, kwargs = self._calls.of(index, rows.stop - rows.start)
        output = layer(self._hidden.take(rows), *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    def _outputs_of_pruned(self, layer: nn.Module, rows: slice) -> Iterator[tuple[Site, Tensor]]:
        """What the blocks pruned so far put out: their consumers on the kept inputs."""
        for site, columns_I in self._pruned.values():
            if not len(columns_I):  # a bias goes with its block
                yield site, torch.zeros_like(self._hidden.take(rows))
                continue
            x_BTI = self._inputs[site.name].take(rows)
            yield site, layer.get_submodule(site.consumer)(x_BTI.index_select(-1, columns_I))

    @contextmanager
    def _finished_blocks(self, layer: nn.Module, rows: slice) -> Iterator[None]:
        """Inside, every block pruned so far answers with its consumer on the kept input instead of running."""
        with ExitStack() as stack:
            for site, output in self._outputs_of_pruned(layer, rows):
                answer = (output, None) if site.returns_tuple else output
                assert site.block is not None
                stack.enter_context(_answering(layer.get_submodule(site.block), answer))
            yield

    @torch.inference_mode()
    def _embed(self, checkpoint: Checkpoint, windows_BT: Tensor) -> None:
        """Fill the residual stream with embeddings, and learn which arguments each layer is called with."""
        with embeddings(checkpoint, windows_BT.unique(), self._dtype) as body:
            self._calls = layer_calls(body, checkpoint, windows_BT, self._batch_size, self._device)
            self._hidden = self._conveyor("residual", checkpoint.width, windows_BT.shape)
            for rows in self._batches():
                self._hidden.host[rows] = first_input(body, checkpoint.layers[0], windows_BT[rows])


def _adds_up(before_BTD: Tensor, outputs: Sequence[Tensor], after_BTD: Tensor) -> bool:
    """The layer adds its consumers' outputs to the residual stream, and does nothing else to it."""
    if any(output.shape != before_BTD.shape for output in outputs):  # they go into one of several streams
        return False
    change_BTD = after_BTD.float() - before_BTD.float()
    left_BTD = change_BTD - torch.stack([output.float() for output in outputs]).sum(0)
    return bool(left_BTD.norm() <= ROUNDING * change_BTD.norm())


def _answering(module: nn.Module, answer: Any) -> Any:
    return forward_replaced(module, lambda *args, **kwargs: answer)
