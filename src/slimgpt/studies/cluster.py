"""The same cells on a Ray cluster: ``run_cell`` as a remote task, one CPU each. Ray is optional."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from slimgpt.errors import ConfigError
from slimgpt.studies.run import Work, run_cell


def require_ray() -> None:
    """Raise ConfigError where Ray is not installed, which is before any work."""
    if find_spec("ray") is None:
        raise ConfigError("--ray needs Ray: pip install 'slimgpt[ray]', or use --workers on this machine.")


def run_on_ray(works: Sequence[Work], workers: int) -> Iterator[dict[str, Any]]:
    """Records as cells finish, on the cluster of ``RAY_ADDRESS``, or on one of this machine with ``workers`` CPUs."""
    import os

    import ray

    address = os.environ.get("RAY_ADDRESS")
    here = {} if address else {"num_cpus": workers, "include_dashboard": False}
    with ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here):
        remote = ray.remote(num_cpus=1, max_retries=0)(run_cell)
        waiting = [remote.remote(work) for work in works]
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(done[0])
