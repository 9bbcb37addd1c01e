"""Packages for Node that tests and benchmarks use, installed where they are needed from their lock files."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

INSTALL_TIMEOUT_SECONDS = 250  # the packages come over the network


def has_node() -> bool:
    return shutil.which("node") is not None and shutil.which("npm") is not None


def install_packages(folder: Path) -> None:
    """Make `folder`'s node_modules what its package-lock.json says. Raises CalledProcessError, TimeoutExpired.

    One at a time: `npm ci` removes what is there, and another run of the tests may be using it.
    """
    lock, installed = folder / "package-lock.json", folder / "node_modules" / "installed-lock.json"
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        wanted = file.read()
        if installed.exists() and installed.read_bytes() == wanted:
            return
        command = ["npm", "ci", "--no-audit", "--no-fund"]
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=INSTALL_TIMEOUT_SECONDS,
        )
        installed.write_bytes(wanted)
