"""What a run will need of the device, the host and the disk, known before it starts.

A run goes through stages, one after the other; each names what lies in memory at its own peak. The announced need is
that of the largest stage, with what the process has taken already: the peak of the whole process, as the system
measures it, to 15 % (benchmarks/results/memory_plan.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from slimgpt.errors import ConfigError
from slimgpt.machine import host

LIBRARIES = 64 << 20  # what PyTorch and its libraries take once they compute: code, scratch, what glibc keeps
ROOM_LEFT = 0.5  # share of free memory that activations may take before they go to disk


@dataclass(frozen=True)
class Stage:
    """One stage of a run: bytes at its peak, by what they are for.

    Attributes:
        name: of the stage.
        device: on the device; in the machine's memory too where that is the CPU.
        host: in the machine's memory.
        activations: of all tokens of this process: in the machine's memory or, offloaded, in files.
    """

    name: str
    device: Mapping[str, int] = field(default_factory=dict)
    host: Mapping[str, int] = field(default_factory=dict)
    activations: int = 0

    def parts(self, on_cpu: bool, offloaded: bool = False) -> dict[str, int]:
        """What of the machine's memory is for what, where the device is the CPU or is not."""
        kept = {} if offloaded else {"activations": self.activations}
        parts = {**kept, **self.host, **(self.device if on_cpu else {}), "libraries": LIBRARIES}
        return {name: num_bytes for name, num_bytes in parts.items() if num_bytes}

    def most(self, on_cpu: bool, offloaded: bool = False) -> int:
        """All of it."""
        return sum(self.parts(on_cpu, offloaded).values())


@dataclass(frozen=True)
class Needs:
    """What a run needs.

    Attributes:
        stages: of the run.
        taken: bytes that the process has taken before the first of them.
        most_so_far: the most that it had taken by then.
        offloaded: the activations go to files.
        on_cpu: the device is the CPU.
    """

    stages: tuple[Stage, ...]
    taken: int
    most_so_far: int
    offloaded: bool
    on_cpu: bool

    @property
    def host(self) -> int:
        """Memory of this machine that the process takes at its peak."""
        return max(self.most_so_far, self.taken + self.more)

    @property
    def more(self) -> int:
        """The part of it that it has not taken yet."""
        return sum(self.parts.values())

    @property
    def device(self) -> int:
        """Memory of the device."""
        return max((sum(stage.device.values()) for stage in self.stages), default=0)

    @property
    def disk(self) -> int:
        """Room for offloaded activations."""
        return max((stage.activations for stage in self.stages), default=0) if self.offloaded else 0

    @property
    def largest(self) -> Stage:
        """The stage that decides."""
        return max(self.stages, key=lambda stage: stage.most(self.on_cpu, self.offloaded))

    @property
    def parts(self) -> dict[str, int]:
        """What its memory is for, the most first."""
        parts = self.largest.parts(self.on_cpu, self.offloaded)
        return dict(sorted(parts.items(), key=lambda part: -part[1]))


def needs(stages: Sequence[Stage], device: torch.device, offload: bool = False, sharers: int = 1) -> Needs:
    """Those of a run through ``stages``; decides on offloading unless it is asked for.

    ``sharers`` processes of the same run share this machine.
    """
    host.give_back()
    activations = max(stage.activations for stage in stages)
    return Needs(
        stages=tuple(stages),
        taken=host.resident_bytes(),
        most_so_far=host.peak_host_bytes(),
        offloaded=offload or activations > ROOM_LEFT * host.free_bytes() / sharers,
        on_cpu=device.type == "cpu",
    )


def check(needs: Needs, device: torch.device, cure: str, offload_dir: Path, sharers: int = 1) -> None:
    """Refuse what cannot fit, ``sharers`` times over; ``cure`` says what needs less of the machine's memory.

    Raises:
        ConfigError: the device, the host or the offload disk is too small; the message says by how much and what helps.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        if needs.device > total:
            raise ConfigError(
                f"{device} has {gib(total)}, but this run needs about {gib(needs.device)}: lower --batch-size, or use "
                "--device cpu."
            )
    free = host.free_bytes() / sharers
    if needs.more > free:
        who, share = ("this run", "") if sharers == 1 else (f"each of {sharers} processes", " for it")
        raise ConfigError(
            f"{who} needs about {gib(needs.host)} of memory, {gib(needs.more)} more than it has now, and {gib(free)} "
            f"are free{share}: {cure}."
        )
    room = psutil.disk_usage(str(_existing(offload_dir))).free / sharers
    if needs.disk > room:
        raise ConfigError(
            f"the activations take {gib(needs.disk)}, and {offload_dir} has {gib(room)} free: choose another "
            "disk with --offload-dir, or lower --samples."
        )


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def gib(num_bytes: float) -> str:
    """Bytes for people."""
    return f"{num_bytes / 2**30:,.1f} GiB"
