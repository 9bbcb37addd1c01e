"""CPU time and memory of processes under measurement."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """User and system time of the processes, and of their children that have ended."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def pid_cpu_seconds(pid: int) -> float:
    """The same of one process."""
    return cpu_seconds([psutil.Process(pid)])


def memory_bytes(pid: int) -> int:
    """What the process holds in memory that is its own."""
    return int(psutil.Process(pid).memory_full_info().uss)
