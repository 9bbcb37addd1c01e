"""One migration at a time, by a lock that anybody can take: what keeps one waiting is told, and strangers keep none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tests.harness import RUN, StepsFolder, connect_sql
from tests.migrations.test_refusals import owner_url, run_alembic
from tests.migrations.test_roles import Role, role
from tidelog import Stream
from tidelog.migrate import upgrade_on

__all__ = ["owner_url", "role"]

HOLD = "begin; select pg_advisory_xact_lock(1953064044, 3)"
# When it began to ask who has the lock, which it does again and again while it waits.
ASKED_AT = """
select query_start from pg_stat_activity
where datname = current_database() and application_name = 'tidelog migrate' and pid <> $1 and query like '%may_migrate%'
"""
IS_THERE = "select exists (select from pg_stat_activity where pid = $1)"


@asynccontextmanager
async def holding(url: str, **settings: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url, server_settings=settings)
    await connection.execute(HOLD)
    yield connection
    connection.terminate()


async def until_asked_again(sql: asyncpg.Connection[Any], pid: int, migrating: asyncio.Future[str]) -> None:
    """Until `migrating` has looked several times who has its lock, which is `pid`: a stranger is ended by then."""
    asked: set[object] = set()
    while len(asked) < 12 and not migrating.done():  # a look is three at most: the statement is parsed, bound, executed
        asked.update(await sql.fetch(ASKED_AT, pid))


@pytest.fixture
async def stranger_url(empty_url: str) -> AsyncIterator[str]:
    """The database as anybody sees it who may connect."""
    role = f"tidelog_test_stranger_{RUN}"
    sql = await connect_sql(empty_url)
    await sql.execute(f"create role {role} login")
    yield make_url(empty_url).set(username=role).render_as_string(hide_password=False)
    await sql.execute(f"drop role {role}")
    await sql.close()


async def test_a_stranger_with_the_lock_of_migrations_is_ended(
    empty_url: str, stranger_url: str, note_steps: StepsFolder
) -> None:
    """Whatever its name; and named before."""
    async with holding(stranger_url, application_name="tidelog migrate") as stranger:
        pid = stranger.get_server_pid()
        said = await run_alembic(empty_url, note_steps)
        sql = await connect_sql(empty_url)
        assert not await sql.fetchval(IS_THERE, pid)
        await sql.close()
    assert f"held by: pid {pid}" in said
    assert "made streams.note" in said


async def test_a_stranger_that_can_t_be_ended_is_not_waited_for(
    owner_url: str, empty_url: str, note_steps: StepsFolder
) -> None:
    """A superuser's psql, where the role that migrates is none. Two migrations are kept apart all the same."""
    async with holding(empty_url, application_name="psql") as stranger:
        said = await run_alembic(owner_url, note_steps)
        assert "goes on without the lock" in said and "made streams.note" in said
        note_steps.write("task_stream.py", 'config = {"name": "task", "schema": {"type": "object"}}\n')
        done = await asyncio.gather(*(run_alembic(owner_url, note_steps) for _ in range(2)))
        assert sorted("made streams.task" in said for said in done) == [False, True]
        assert not stranger.is_closed()


async def test_another_migration_is_waited_for_and_named(url: str, note_steps: StepsFolder) -> None:
    """However long it takes; it is not ended."""
    sql = await connect_sql(url)
    async with holding(url, application_name="tidelog migrate") as other:
        migrating = asyncio.ensure_future(run_alembic(url, note_steps))
        await until_asked_again(sql, other.get_server_pid(), migrating)
        assert await other.fetchval("select true") and not migrating.done()
        await other.execute("commit")
        assert f"held by: pid {other.get_server_pid()}" in await migrating
    await sql.close()


async def test_an_applications_own_migration_is_waited_for(empty_url: str, note_steps: StepsFolder) -> None:
    """Whatever the name of its connection: it is in the middle of its own changes."""
    sql = await connect_sql(empty_url)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda *_, **__: asyncpg.connect(empty_url, server_settings={"application_name": "shop"}),
    )
    async with engine.begin() as connection:
        await connection.exec_driver_sql("create table theirs ()")
        await connection.run_sync(upgrade_on, [Stream("job", {"type": "object"})])
        pid = (await connection.exec_driver_sql("select pg_backend_pid()")).scalar_one()
        migrating = asyncio.ensure_future(run_alembic(empty_url, note_steps))
        await until_asked_again(sql, pid, migrating)
        assert await sql.fetchval(IS_THERE, pid) and not migrating.done()
    assert f"held by: pid {pid}" in await migrating
    async with engine.connect() as connection:
        name = (await connection.exec_driver_sql("select current_setting('application_name')")).scalar_one()
    await engine.dispose()
    tables = await sql.fetchval("select array[to_regclass('theirs'), to_regclass('streams.job')]::text[]")
    assert (name, tables) == ("shop", ["theirs", "streams.job"])
    await sql.close()


async def test_a_migration_by_the_schemas_owner_is_waited_for(role: Role, note_steps: StepsFolder, url: str) -> None:
    """Also one that may make nothing else in the database."""
    await role.sql.execute(f"drop schema streams cascade; create schema streams authorization {role.name}")
    async with holding(role.url, application_name="tidelog migrate") as other:
        migrating = asyncio.ensure_future(run_alembic(url, note_steps))
        await until_asked_again(role.sql, other.get_server_pid(), migrating)
        assert await other.fetchval("select true") and not migrating.done()
        await other.execute("commit")
        assert f"held by: pid {other.get_server_pid()}" in await migrating
    await role.sql.execute("alter schema streams owner to current_user")
