"""Energy of this machine's processors, where the kernel counts it (RAPL, of Intel and AMD) and lets us read it."""

from __future__ import annotations

from pathlib import Path

COUNTERS = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:[0-9]*"  # the kernel calls AMD's so too; parts of a package have one more colon


class EnergyMeter:
    """Joules since it was made, of everything that runs on the machine.

    Args:
        counters: where the kernel shows its counters.
    """

    def __init__(self, counters: Path = COUNTERS) -> None:
        self._packages = [package for package in sorted(counters.glob(PACKAGES)) if package.name.count(":") == 1]
        self._start = self._microjoules()

    def joules(self) -> float | None:
        """Energy so far; None where no counter can be read."""
        now = self._microjoules()
        if not now or len(now) != len(self._start):
            return None
        return sum(max(0, after - before) for before, after in zip(self._start, now, strict=True)) / 1e6

    def _microjoules(self) -> list[int]:
        try:
            return [int((package / "energy_uj").read_text()) for package in self._packages]
        except (OSError, ValueError):  # root's alone on many systems
            return []
