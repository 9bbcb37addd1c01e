"""A migrated database without a server, and what its writers need."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.harness import RUN, Databases, connect_sql

_groups = itertools.count(1)


@pytest.fixture(scope="package")
async def url(databases: Databases, template_database: str) -> AsyncIterator[str]:
    """A migrated database without a server: nothing is numbered unless a test does it."""
    url = await databases.create(template=template_database)
    yield url
    await databases.drop(url)


@pytest.fixture
async def sql(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await connect_sql(url)
    yield connection
    await connection.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await connect_sql(url)
    yield connection
    await connection.close()


@pytest.fixture
def group() -> str:
    return f"group {next(_groups)}"


@pytest.fixture
async def role(sql: asyncpg.Connection[Any]) -> AsyncIterator[str]:
    """A role without any rights."""
    name = f"tidelog_test_role_{RUN}"
    await sql.execute(f"create role {name}")
    yield name
    await sql.execute("reset role")
    await sql.execute(f"drop owned by {name}")
    await sql.execute(f"drop role {name}")
