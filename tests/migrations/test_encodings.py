"""A database of any other encoding than UTF8 is refused where it is met, with the reason and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import RUN, Databases, Server, Sql, StepsFolder, connect_sql, free_port, migrate
from tests.integration.restore_fixtures import adopt
from tests.migrations.test_refusals import serve
from tidelog.consumer import consume
from tidelog.errors import EncodingError
from tidelog.store.encoding import check_encodings

CONVERT = "update pg_database set encoding = $1 where datname = current_database()"

MakeDatabase = Callable[[str], Awaitable[str]]


@pytest.fixture
async def in_encoding(databases: Databases) -> AsyncIterator[MakeDatabase]:
    """`await in_encoding("LATIN1")`: the URL of an empty database of that encoding."""
    urls = []
    server = await asyncpg.connect(databases.server_url)

    async def make(encoding: str) -> str:
        name = f"tidelog_test_{RUN}_{encoding.lower()}"
        await server.execute(
            f"create database {name} encoding '{encoding}' template template0 locale_provider libc "
            "lc_collate 'C' lc_ctype 'C'"
        )
        urls.append(make_url(databases.server_url).set(database=name).render_as_string(hide_password=False))
        return urls[-1]

    yield make
    for url in urls:
        await databases.drop(url)
    await server.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
async def test_a_migration_makes_nothing_there(
    in_encoding: MakeDatabase, note_steps: StepsFolder, encoding: str
) -> None:
    """It names the encoding and says how to come to another."""
    url = await in_encoding(encoding)
    with pytest.raises(RuntimeError, match=f"has the encoding {encoding}, and Tidelog needs UTF8") as refused:
        await asyncio.to_thread(migrate, url, note_steps.path)
    assert "create database tidelog encoding 'UTF8' template template0" in str(refused.value)
    sql = await connect_sql(url)
    assert await sql.fetchval("select to_regnamespace('streams') is null")
    await sql.close()


@pytest.fixture
async def converted_url(in_encoding: MakeDatabase, note_steps: StepsFolder) -> str:
    """A migrated database that is SQL_ASCII now, as one is that was migrated before this was looked at."""
    url = await in_encoding("UTF8")
    await asyncio.to_thread(migrate, url, note_steps.path)
    sql = await connect_sql(url)
    await sql.execute(CONVERT, 0)
    await sql.close()
    return url


async def test_nothing_starts_on_one_that_is_there(converted_url: str, note_steps: StepsFolder) -> None:
    """The server, scripts/serve, scripts/adopt and a consumer all say the same."""
    reason = "has the encoding SQL_ASCII, and Tidelog needs UTF8"
    assert reason in await serve(converted_url, note_steps.path)
    by_script = Server(converted_url, note_steps.path, {}, free_port(), ["-m", "tidelog.cli", "serve"])
    assert await asyncio.to_thread(by_script.process.wait, 60) == 1
    assert f"tidelog: encoding_unsupported: the database {make_url(converted_url).database} {reason}" in by_script.log()
    assert "Traceback" not in by_script.log()
    assert reason in (await adopt(converted_url)).stderr

    async def handler(*_: object) -> None: ...

    with pytest.raises(EncodingError, match=reason):
        await consume(converted_url, "name", handler)


@pytest.mark.parametrize("of", ["role {role}", 'database "{database}"', 'role {role} in database "{database}"'])
async def test_a_client_encoding_of_role_or_database_changes_nothing(
    url: str, sql: Sql, note_steps: StepsFolder, of: str
) -> None:
    """Sessions ask for UTF8 themselves: what is written and read is told as it is, an emoji as well."""
    role = f"tidelog_test_latin_{RUN}"
    database = make_url(url).database
    await sql.execute(f"create role {role} superuser login password 'x'")
    await sql.execute(f"alter {of.format(role=role, database=database)} set client_encoding = 'LATIN1'")
    as_role = make_url(url).set(username=role, password="x").render_as_string(hide_password=False)
    try:
        session = await asyncpg.connect(as_role)
        assert await session.fetchval("show client_encoding") == "UTF8"
        await session.execute("update streams.note set data = $1", '{"text": "\N{CRAB}"}')
        assert "\N{CRAB}" in await session.fetchval("select data::text from streams.note")
        await session.close()
        await asyncio.to_thread(migrate, as_role, note_steps.path)
    finally:
        await sql.execute(f'alter database "{database}" reset all; drop owned by {role}; drop role {role}')


def test_a_session_in_another_encoding_is_refused() -> None:
    """As a pooler may make it, which answers for the database."""
    with pytest.raises(EncodingError, match="client_encoding is LATIN1"):
        check_encodings("tidelog", "UTF8", "LATIN1")
    check_encodings("tidelog", "UTF8", "UTF8")
