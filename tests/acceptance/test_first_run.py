"""A newcomer's first minutes: `scripts/serve` in a fresh copy, with nothing set up."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.harness import HTTP_TIMEOUT_SECONDS, ROOT, are_gone, free_port, processes_below

INSTALL_TIMEOUT_SECONDS = 600  # the packages come over the network
STOP_TIMEOUT_SECONDS = 90
NOT_IN_A_CLONE = shutil.ignore_patterns(
    ".git", ".venv", ".tidelog", "node_modules", "__pycache__", ".*_cache", ".hypothesis"
)


class Script:
    """A script of the copy at work, called from somewhere else."""

    def __init__(self, clone: Path, name: str, port: int) -> None:
        self.output = clone / f"{name}-output.txt"
        self.base = f"http://127.0.0.1:{port}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDELOG_")}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [clone / "scripts" / name],
                cwd="/",
                env=environment | {"TIDELOG_PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    async def until_ready(self) -> None:
        async with httpx.AsyncClient(base_url=self.base) as http, asyncio.timeout(INSTALL_TIMEOUT_SECONDS):
            while self.process.poll() is None:
                try:
                    if (await http.get("/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        raise AssertionError(f"it ended with {self.process.returncode}:\n{self.output.read_text()}")

    async def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        await asyncio.to_thread(self.process.wait, STOP_TIMEOUT_SECONDS)

    def told(self, pattern: str) -> str:
        """What the welcome says there."""
        found = re.search(pattern, self.output.read_text(), re.DOTALL)
        assert found is not None, self.output.read_text()
        return found.group(1)

    async def post(self) -> None:
        """Run the command that it tells the newcomer to try."""
        await _run(self.told(r"post +(curl .*?)\n +sql "))

    async def sql(self, statement: str) -> list[str]:
        """Type one of the SQL statements that it shows, by its first word, into the psql that it shows."""
        psql, typed = self.told(r" sql +(.+?)\n"), self.told(rf"\n +({statement} .+?;)\n")
        return (await _run(f"{psql} --tuples-only --no-align", typed)).splitlines()


async def _run(command: str, typed: str = "") -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", command],
        input=typed,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=STOP_TIMEOUT_SECONDS,
    )
    return str(done.stdout)


@pytest.fixture
def clone() -> Iterator[Path]:
    """A copy of the project without anything that running it has made."""
    folder = Path(tempfile.mkdtemp(prefix="tidelog-clone-")).resolve()
    folder.chmod(0o711)  # as root, Postgres runs as another user
    shutil.copytree(ROOT, folder, ignore=NOT_IN_A_CLONE, dirs_exist_ok=True)
    yield folder
    for process in processes_below(folder):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(2 * INSTALL_TIMEOUT_SECONDS)
async def test_one_command_serves_and_keeps_what_was_posted(clone: Path) -> None:
    """From nothing to a message in SQL; a stop leaves no process behind, and the next start has the message.

    A second script at the same moment neither disturbs the installation nor the database.
    """
    port = free_port()
    first, beside = Script(clone, "serve", port), Script(clone, "migrate", port)
    await first.until_ready()
    assert await asyncio.to_thread(beside.process.wait, INSTALL_TIMEOUT_SECONDS) == 0, beside.output.read_text()
    async with httpx.AsyncClient(base_url=first.base, timeout=HTTP_TIMEOUT_SECONDS) as http:
        page = await http.get("/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    await first.post()
    assert await first.sql("update") == ["UPDATE 1"]
    async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
        while len(history := await first.sql("select")) < 2:
            pass  # the change gets its number in a moment
    assert history == ["1|create|hello", "2|update|hello, SQL"]
    await first.end(signal.SIGTERM)
    assert are_gone(clone)

    second = Script(clone, "serve", port)
    await second.until_ready()
    assert "Installing" not in second.output.read_text()
    assert await second.sql("select") == history
    await second.end(signal.SIGINT)
    assert are_gone(clone)


def serve(data_dir: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `scripts/serve` to its end: for settings that it can't start with."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDELOG_")}
    return subprocess.run(
        [sys.executable, "-m", "tidelog.cli", "serve"],
        cwd=ROOT,
        env=environment | {"TIDELOG_DATA_DIR": str(data_dir), **settings},
        capture_output=True,
        text=True,
        timeout=STOP_TIMEOUT_SECONDS,
    )


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    """The message names the port and the way out; no database is made for nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = serve(tmp_path / "data", TIDELOG_PORT=port)
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr
    assert "TIDELOG_PORT" in done.stderr
    assert not (tmp_path / "data").exists()
