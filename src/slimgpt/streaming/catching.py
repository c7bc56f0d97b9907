"""What would enter the consumers of some sites, without running a module any further."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from torch import Tensor, nn

from slimgpt.model.embeddings_and_head import Stop
from slimgpt.sites import Site


def inputs_of(sites: Sequence[Site], module: nn.Module, run: Callable[[], Any]) -> list[tuple[Site, Tensor]]:
    """What would enter the consumers of ``sites`` when ``run`` runs the module, which is not run any further."""
    caught: list[tuple[Site, Tensor]] = []

    def catcher(site: Site) -> Callable[..., None]:
        def catch(consumer: nn.Module, args: tuple[Tensor, ...]) -> None:
            caught.append((site, args[0]))
            if len(caught) == len(sites):
                raise Stop

        return catch

    with ExitStack() as stack:
        for site in sites:
            stack.callback(module.get_submodule(site.consumer).register_forward_pre_hook(catcher(site)).remove)
        with suppress(Stop):
            run()
    assert caught, "the module finished without reaching a consumer"
    return caught
