"""A database of levels: what each site looks like when it keeps so much, solved once and kept in the search folder.

The inputs' moments are the dense model's, as of the whole search, and the solver is the exact one: a level says what a
site can be at best, whichever solver prunes in the end.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor, empty

from slimgpt.journal import write_tensors
from slimgpt.search.cache import read_hessian, read_metric
from slimgpt.sites import Removal, Site, SolverOptions
from slimgpt.solvers.members import solve_site
from slimgpt.solvers.obs import obs


class Levels:
    """Solves what is not there yet.

    Args:
        folder: of a search that has kept the inputs' moments.
        damping: of its solver.
    """

    def __init__(self, folder: Path, damping: float) -> None:
        self._folder = folder
        self._damping = damping

    def removal(self, index: int, site: Site, kept_units: int, kept_members: int, weight_OI: Tensor) -> Removal:
        """The site of layer ``index`` with so many units and so many members of each.

        Raises:
            NumericalError: a damped Hessian is singular.
        """
        name = f"{index:05d}-{site.name}-{kept_units}-{kept_members}.safetensors"
        path = self._folder / "levels" / name
        if not path.is_file():
            options = SolverOptions(self._damping, metric_OO=read_metric(self._folder, index, site.name))
            hessian_II = read_hessian(self._folder, index, site.name).to(weight_OI.device)
            solved = solve_site(obs, weight_OI, hessian_II, site, kept_units, kept_members, options)
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, {"kept": solved.kept_N.cpu(), "weight": solved.weight_OI.cpu().contiguous()})
        with safe_open(path, framework="pt") as file:
            return Removal(file.get_tensor("kept"), file.get_tensor("weight"), 0.0, empty(0))
