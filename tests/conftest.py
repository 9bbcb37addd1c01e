"""Fixtures of all tests: a Postgres, databases, servers, steps."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import make_url

from tests.harness import Databases, Server, StepsFolder, free_port, migrate, uvicorn_command
from tidelog.testing.databases import name_of
from tidelog.testing.postgres import IN_MEMORY, has_memory, postgres_server

gc.disable()  # until all is collected (see below)

# Also what tests write: on a disk it took a twentieth of a run's processor time to make these files.
if not os.environ.get("TMPDIR") and has_memory():
    os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)

# Each request at INFO, wherever a test has had the root's level lowered: it is none of what tests look for in the log.
logging.getLogger("httpx").setLevel(logging.WARNING)

pytest_plugins = ["tidelog.testing"]

StartServer = Callable[..., Awaitable[Server]]

# How long an example takes, and how long it takes to draw one, says more of the machine than of the code.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
settings.register_profile("same", settings.get_profile("random"), derandomize=True)
settings.load_profile("same")  # unless pytest has --hypothesis-profile=random

SERVER_LOG = pytest.StashKey[Path]()  # of the tests' own Postgres
# What it writes of sessions that end early, and of processes that crash (it then ends all others) or can't be had.
ENDED = re.compile(
    r"FATAL|PANIC|was terminated by|Failed process was running|exited with|[Cc]ould not (fork|accept|send)"
)
ENDED_SHOWN = 20  # lines, the last ones

LOG_SHOWN = 10_000  # characters, at the end
SEED = 1  # of tests that aren't slow

PROCESSES_PER_CPU = 3  # much of a test is waiting, for servers and disks
PROCESSES_MAX = 8
# On a server that is given: a Postgres has 100 connections by default, of which six processes of tests took 95.
PROCESSES_ON_SERVER_MAX = 4


def pytest_xdist_auto_num_workers() -> int:
    """How many processes `scripts/test` has. They share a Postgres: the embedded one, or one that is given."""
    allowed = PROCESSES_ON_SERVER_MAX if os.environ.get("TIDELOG_DATABASE_URL") else PROCESSES_MAX
    return min(allowed, PROCESSES_PER_CPU * (os.cpu_count() or 1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """In CI nothing may be left out silently: a skip is a failure there."""
    report = yield
    if report.failed and (told := ended_sessions(item.config)):
        report.sections.append(("what the tests' Postgres wrote last of sessions that ended early", told))
    if report.skipped and os.environ.get("TIDELOG_TEST_NO_SKIP") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where TIDELOG_TEST_NO_SKIP is set: {report.longrepr}"
    return report


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end, and there is no hurry with a test's own few objects.

    To look for garbage in all of it, and as often as by default, was an eighth of a run's processor time.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What the test draws its random choices from: always the same, but in a slow test a new one each time.

    `TIDELOG_TEST_SEED=N` gives it; it is printed, and pytest shows it with a failure.
    """
    if given := os.environ.get("TIDELOG_TEST_SEED"):
        seed = int(given)
    else:
        seed = random.randrange(2**32) if request.node.get_closest_marker("slow") else SEED  # noqa: S311 - no secret
    print(f"TIDELOG_TEST_SEED={seed}")  # noqa: T201 - to run it again
    return seed


@pytest.fixture(scope="session")
def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """A server: the one of TIDELOG_DATABASE_URL, or an embedded one of this run's own."""
    with postgres_server(os.environ.get("TIDELOG_DATABASE_URL")) as url:
        pytestconfig.stash[SERVER_LOG] = Path(str(make_url(url).query.get("host", os.devnull))) / "server.log"
        yield url


def ended_sessions(config: pytest.Config) -> str:
    """The lines of the embedded server's log, if it is that. Some tests end sessions: of others than the failed one."""
    try:
        lines = config.stash[SERVER_LOG].read_text(errors="replace").splitlines()
    except (KeyError, OSError):
        return ""
    return "\n".join([line for line in lines if ENDED.search(line)][-ENDED_SHOWN:])


@pytest.fixture(scope="session")
def tidelog_postgres_url(postgres_url: str) -> str:
    """The same for the fixtures of tidelog.testing."""
    return postgres_url


@pytest.fixture(scope="session")
async def databases(postgres_url: str) -> AsyncIterator[Databases]:
    databases = Databases(postgres_url)
    async with databases.run():
        yield databases


@pytest.fixture(scope="session")
async def template_database(databases: Databases) -> AsyncIterator[str]:
    """The name of a database that is migrated for the example's steps, to be cloned."""
    url = await databases.create()
    await asyncio.to_thread(migrate, url)
    yield name_of(url)
    await databases.drop(url)


@pytest.fixture
async def database_url(databases: Databases, template_database: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    url = await databases.create(template=template_database)
    yield url
    await databases.drop(url)


@pytest.fixture
def steps(tmp_path: Path) -> StepsFolder:
    """An empty folder for stream and step files: `steps.write("chat_stream.py", ...)`."""
    folder = tmp_path / "steps"
    folder.mkdir()
    return StepsFolder(folder)


@asynccontextmanager
async def server_starter(database_url: str) -> AsyncIterator[StartServer]:
    """What the fixture start_server is, for databases that live longer than a test."""
    servers: list[Server] = []

    async def start(
        steps_dir: Path | None = None,
        port: int | None = None,
        command: list[str] | None = None,
        *,
        is_patient: bool = False,
        **settings: str,
    ) -> Server:
        if steps_dir is not None:
            await asyncio.to_thread(migrate, database_url, steps_dir)
        port = port or free_port()
        if is_patient:
            command = [*(command or uvicorn_command(port)), "--ws-ping-interval", "3600"]
            settings["TIDELOG_SOCKET_DRAIN_TIMEOUT_SECONDS"] = "3600"
        server = Server(database_url, steps_dir, settings, port, command)
        servers.append(server)
        await server.wait_until_ready()
        return server

    try:
        yield start
    finally:
        for server in servers:
            await server.stop()
            print(f"the server on port {server.port}:\n{server.log()[-LOG_SHOWN:]}")  # noqa: T201 - shown with a failure


@pytest.fixture
async def start_server(database_url: str) -> AsyncIterator[StartServer]:
    """`await start_server(steps_dir=None, port=None, **settings)`: servers on the test's database, ready to be used.

    One that `is_patient` sends no pings, and closes nobody for not reading, however long a test takes.
    """
    async with server_starter(database_url) as start:
        yield start
