"""What the promises are proved on: two server processes on one database, and steps that do what they're told."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.conftest import server_starter
from tests.harness import Databases, Server, connect_sql

PROMISE_STEPS = Path(__file__).parent / "promise_steps"

Run = Callable[..., Coroutine[Any, Any, httpx.Response]]

_groups = itertools.count(1)


@dataclass(frozen=True)
class TwoServers:
    """Both serve the same database; `here` was there first, so it numbers the commits."""

    database_url: str
    here: Server
    there: Server


@pytest.fixture(scope="package")
async def two_servers(databases: Databases) -> AsyncIterator[TwoServers]:
    url = await databases.create()
    try:
        async with server_starter(url) as start:
            # Steps wait at gates for as long as a test takes.
            here = await start(PROMISE_STEPS, TIDELOG_STEP_LOCK_TIMEOUT_SECONDS="0")
            yield TwoServers(url, here, await start(PROMISE_STEPS, TIDELOG_STEP_LOCK_TIMEOUT_SECONDS="0"))
    finally:
        await databases.drop(url)


@pytest.fixture
def here(two_servers: TwoServers) -> Server:
    return two_servers.here


@pytest.fixture
def there(two_servers: TwoServers) -> Server:
    return two_servers.there


@pytest.fixture
async def sql(two_servers: TwoServers) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A program that knows nothing of Tidelog, and writes to its database."""
    connection = await connect_sql(two_servers.database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def other_sql(two_servers: TwoServers) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A second such program."""
    connection = await connect_sql(two_servers.database_url)
    yield connection
    await connection.close()


@pytest.fixture
def group(request: pytest.FixtureRequest) -> str:
    """A group that no other test writes to."""
    return f"group {next(_groups)} of {request.node.name}"


@pytest.fixture
async def run(here: Server) -> AsyncIterator[Run]:
    """`await run(["set", "note", group, "a", {}], ...)`: a step of these operations; with `each`, each commits."""
    async with here.http() as http:

        async def post(*operations: list[Any], each: bool = False) -> httpx.Response:
            return await http.post("/run-each" if each else "/run", json=operations)

        yield post
