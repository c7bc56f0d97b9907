"""What a site looks like when it keeps so much: the choices are made once and kept in the search folder.

The inputs' moments are the dense model's, as of the whole search, and the solver is the exact one: a level says what a
site can be at best, whichever solver prunes in the end. Its order of removal is nested, so that one elimination answers
for every number of units, and a level costs one refit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slimgpt.machine.seals import intact, seal
from slimgpt.searching.cache import identity, layer_name, read_hessian, read_metric
from slimgpt.sites import Kept, Removal, Site, SolverOptions
from slimgpt.solvers.finish import finish, keep_all_but
from slimgpt.solvers.members import nothing_left, solve_site
from slimgpt.solvers.obs import obs, removal_order


class Levels:
    """Chooses where that has not been done yet.

    Args:
        folder: of a search that has kept the inputs' moments.
        damping: of its solver.
    """

    def __init__(self, folder: Path, damping: float) -> None:
        self._folder = folder
        self._search = identity(folder)
        self._damping = damping

    def removal(self, index: int | None, site: Site, kept: Kept, weight_OI: Tensor) -> Removal:
        """The site of layer ``index`` (None: beside the layers) with what is kept of it.

        Raises:
            NumericalError: a damped Hessian is singular.
        """
        if kept.units == 0:
            return nothing_left(weight_OI, site)
        options = SolverOptions(self._damping, metric_OO=read_metric(self._folder, index, site.name))
        hessian_II = read_hessian(self._folder, index, site.name).to(weight_OI.device)
        if kept.members in (None, site.members):
            order_N = self._kept(
                f"{layer_name(index)}-{site.name}",
                lambda: removal_order(weight_OI, hessian_II, site.num_units, site.num_units, options)[0],
            )
            kept_N = keep_all_but(order_N[: site.num_units - kept.units], site.num_units)
        else:
            kept_N = self._kept(
                f"{layer_name(index)}-{site.name}-{kept.units}-{kept.members}",
                lambda: solve_site(obs, weight_OI, hessian_II, site, kept, options).kept_N.int(),
            ).bool()
        return finish(weight_OI, hessian_II, kept_N, options, repair=True)

    def _kept(self, name: str, choose: Callable[[], Tensor]) -> Tensor:
        """A choice in whole numbers, from the folder where it is there."""
        path, of = self._folder / "levels" / f"{name}.json", [self._search, name]
        found = intact(path, of, "what the site keeps is chosen again")
        if found is None:
            path.parent.mkdir(exist_ok=True)
            found = {"choice": choose().tolist()}
            seal(path, found, of)
        return torch.tensor(found["choice"])
