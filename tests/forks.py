"""Programs of Python's in processes of their own, forked from one that has imported what they need.

Importing the server takes a second of a processor, and the tests start hundreds. What they see is a process as any:
it has an environment, arguments and output of its own, and is stopped and killed by signals.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM_TIMEOUT_SECONDS = 120

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "tests.forks",
        "tests.harness",
        "alembic.config",
        "sqlalchemy.dialects.postgresql.asyncpg",
        "tidelog.consumer",
        "tidelog.plugin",
        "tidelog.runtime.discovery",
        "tidelog.serve",
        "tidelog.store.stream_tables",
        "tidelog.web.http_protocol",
        "tidelog.web.protocol",
        "uvicorn.main",
        "uvicorn.lifespan.on",
        "uvloop",
    ]
)


class ForkedProgram:
    """`python -m module arguments...` in the project's folder, with what tests use of subprocess.Popen.

    What it writes is appended to the file `out`, and to `err` if that is another one; it reads `given`, if any.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        out: Path,
        err: Path | None = None,
        given: Path | None = None,
    ) -> None:
        told = (module, [*arguments], {**environment}, given or Path(os.devnull), out, err or out)
        # A daemon to multiprocessing: one that is left at the end is stopped, not waited for.
        self._process = _forks.Process(target=_run, args=told, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self._polling = threading.Lock()  # what is read of an end can be read once

    @property
    def returncode(self) -> int | None:
        """As in subprocess: negative is a signal's number. None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        with self._polling:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        connection.wait([self._process.sentinel], timeout)
        ended = self.poll()
        if ended is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return ended

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; `typed` is its input. Raises subprocess.TimeoutExpired if it has none."""
    with tempfile.TemporaryDirectory(prefix="tidelog-forked-") as folder:
        out, err, given = Path(folder, "out"), Path(folder, "err"), Path(folder, "in")
        given.write_text(typed)
        program = ForkedProgram(module, arguments, environment, out, err, given)
        try:
            program.wait(PROGRAM_TIMEOUT_SECONDS)
        finally:
            program.kill()
        return subprocess.CompletedProcess([module, *arguments], program.wait(), out.read_text(), err.read_text())


def _run(module: str, arguments: list[str], environment: dict[str, str], *files: Path) -> None:
    # What was imported needs no looking through, and what comes, seldom: that was a quarter of what a start takes.
    gc.freeze()
    gc.set_threshold(20_000)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    for number, file in enumerate(files):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0)  # noqa: SIM115 - multiprocessing has put another one in its place
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:  # multiprocessing would tell of it in its own way
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()
