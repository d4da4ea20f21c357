"""The CPU cores that this process may use: what `engine.threads: auto` stands for."""

import math
import os
from pathlib import Path
from typing import Final

CPUS: Final = Path("/sys/devices/system/cpu")
QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of time: microseconds allowed in each period and the period's length, or `max`."""


def physical_cores(cpus: Path = CPUS, quota: Path = QUOTA) -> int:
    """Physical cores, at least 1: hyper-threads count once, as two of them multiply no faster than one.

    Only those that the process may be scheduled on, and no more than a container's quota pays for.
    """
    allowed = os.sched_getaffinity(0)
    cores = {_core(cpus / f"cpu{cpu}" / "topology", cpu) for cpu in allowed}
    return max(1, min(len(cores), _limit(quota)))


def _core(topology: Path, cpu: int) -> tuple[str, ...]:
    """What the hyper-threads of one core have in common; a CPU of unknown topology is a core."""
    try:
        return tuple((topology / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (f"cpu{cpu}",)


def _limit(quota: Path) -> int:
    try:
        allowed, period = quota.read_text().split()
        return math.ceil(int(allowed) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max`: no limit
        return 1 << 20
