"""Fixtures of the migration tests: databases that are empty, or have one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import Databases, StepsFolder, connect_sql, migrate

NOTE_STREAM = 'config = {"name": "note", "schema": {"type": "object"}}\n'


@pytest.fixture
async def empty_url(databases: Databases) -> AsyncIterator[str]:
    """A database without anything."""
    url = await databases.create()
    yield url
    await databases.drop(url)


@pytest.fixture(scope="package")
async def note_template(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The name of a database that is migrated for the stream `note` alone."""
    url = await databases.create()
    folder = tmp_path_factory.mktemp("note")
    (folder / "note_stream.py").write_text(NOTE_STREAM)
    await asyncio.to_thread(migrate, url, folder)
    yield make_url(url).database or ""
    await databases.drop(url)


@pytest.fixture
async def url(databases: Databases, note_template: str) -> AsyncIterator[str]:
    """A database with the stream `note`, as its file declares it."""
    url = await databases.create(template=note_template)
    yield url
    await databases.drop(url)


@pytest.fixture
def note_steps(steps: StepsFolder) -> StepsFolder:
    """The folder with the file of the stream `note`."""
    steps.write("note_stream.py", NOTE_STREAM)
    return steps


@pytest.fixture
async def sql(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """The database of `url`, with one item in the stream `note`."""
    connection = await connect_sql(url)
    await connection.execute("insert into streams.note (group_id, id, data) values ('g', 'a', '{\"n\": 1}')")
    yield connection
    await connection.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that is not the project's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder
