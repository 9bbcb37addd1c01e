"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.ground import Ground
from tests.harness import ROOT

PACKAGES = ("litestar", "uvicorn", "websockets", "uvloop", "asyncpg", "sqlalchemy", "picows")


async def machine_facts(ground: Ground) -> dict[str, Any]:
    """Cores, versions, how busy the machine was at the start, and which code was measured."""
    postgres = await ground.postgres()
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgres": await postgres.version(),
        "node": _says("node", "--version"),
        "redis": _says("redis-server", "--version"),
        "nats": _says("nats-server", "--version"),
        "packages": {name: version(name) for name in PACKAGES},
    }


def revision() -> str | None:
    """The commit that was measured, with `+` if files differ from it; None outside of a git checkout."""
    commit = _says("git", "rev-parse", "HEAD")
    return commit and commit + ("+" if _says("git", "status", "--porcelain") else "")


def _processor() -> str:
    if sys.platform == "linux":
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor()


def _says(program: str, *arguments: str) -> str | None:
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20)
    return done.stdout.strip() or None if done.returncode == 0 else None
