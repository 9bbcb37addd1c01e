"""The authors' own indexes: made and dropped by migrations, beside writers, and no one else's is touched."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.harness import PSQL, Sql, StepsFolder, connect_sql, eventually, migrate
from tidelog import TidelogConfig, TidelogPlugin
from tidelog.errors import StreamTableError
from tidelog.migrate import upgrade, upgrade_on
from tidelog.model.stream import Stream
from tidelog.settings import Settings
from tidelog.store.holders import INDEX_LOCK
from tidelog.store.indexes import make_indexes

OURS = """
    select i.indexrelid::regclass::text as name, i.indisvalid and i.indisready as is_valid,
        obj_description(i.indexrelid) as note
    from pg_index i
    where i.indrelid = 'streams.note'::regclass and not i.indisprimary and i.indexrelid::regclass::text !~ 'expires_at'
    order by 1
"""
MAKING = (
    "select pid from pg_stat_activity "
    "where datname = current_database() and query like 'create index%' and wait_event_type = 'Lock'"
)
MORE = """
    insert into streams.note (group_id, id, data)
    select 'g', i::text, jsonb_build_object('n', i, 'author', jsonb_build_object('name', 'A' || i))
    from generate_series(1, 500) i
"""


def note(*indexes: Any) -> Stream:
    return Stream("note", {"type": "object"}, indexes=indexes)


async def run(url: str, *streams: Stream) -> None:
    """As `tidelog migrate` does."""
    await asyncio.to_thread(upgrade, Settings(database_url=url), streams)


async def plan(sql: Sql, where: str) -> str:
    """How Postgres would find these, if it can do without reading the whole table."""
    async with sql.transaction():
        await sql.execute("set local enable_seqscan = off")
        rows = await sql.fetch(f"explain select * from streams.note where {where}")
    return "\n".join(row[0] for row in rows)


async def test_declared_indexes_are_made_used_and_dropped(url: str, sql: Sql, caplog: pytest.LogCaptureFixture) -> None:
    """By SQL on `data #> '{path}'`, for equality, ranges and order, and by the expression itself. Others' stay."""
    await sql.execute(MORE)
    await sql.execute("create index note_of_a_dba on streams.note ((data ->> 'n'))")
    stream = note(
        "n", "author.name", {"expression": "lower(data #>> '{author,name}')"}, {"expression": "data", "using": "gin"}
    )
    with caplog.at_level(logging.INFO, "tidelog.migrations"):
        await run(url, stream)
    by_n, by_author, by_lower, by_data = (index.name for index in stream.indexes)
    found = {row["name"].removeprefix("streams."): row for row in await sql.fetch(OURS)}
    assert found.keys() == {by_n, by_author, by_lower, by_data, "note_of_a_dba"}
    assert found[by_n]["is_valid"] and found[by_n]["note"] == 'stream note, by its declaration: "n"'
    assert f"made the index {by_n} of stream note" in caplog.text
    await sql.execute("analyze streams.note")
    assert by_n in await plan(sql, "data #> '{n}' = '7'")
    assert by_n in await plan(sql, "data #> '{n}' between '7' and '12'")
    assert by_author in await plan(sql, "data #> '{author,name}' = '\"A7\"'")
    assert by_lower in await plan(sql, "lower(data #>> '{author,name}') = 'a7'")
    assert by_data in await plan(sql, "data @> '{\"n\": 7}'")
    assert await sql.fetchval("select count(*) from streams.note where data #> '{n}' between '7' and '12'") == 6
    await run(url, note("n"))
    left = {row["name"].removeprefix("streams.") for row in await sql.fetch(OURS)}
    assert left == {by_n, "note_of_a_dba"}
    assert await sql.fetchval("select indexes from streams.stream") == {by_n: '"n"'}
    await run(url, note())
    assert [row["name"] for row in await sql.fetch(OURS)] == ["streams.note_of_a_dba"]


async def test_an_index_is_made_beside_writers_and_again_after_a_kill(url: str, sql: Sql) -> None:
    """While a writer's transaction keeps it waiting others write on; what a kill leaves is made whole."""
    other = await connect_sql(url)
    (index,) = note("n").indexes
    async with sql.transaction():
        await sql.execute(MORE)
        making = asyncio.ensure_future(run(url, note("n")))
        pid = await eventually(lambda: other.fetchval(MAKING))
        await other.execute("update streams.note set data = '{\"n\": 2}' where id = 'a'")
        await other.execute("select pg_terminate_backend($1)", pid)
        with pytest.raises(Exception, match="migrate again"):
            await making
        assert [(row["name"], row["is_valid"]) for row in await other.fetch(OURS)] == [(f"streams.{index.name}", False)]
    await run(url, note("n"))
    assert [(row["name"], row["is_valid"]) for row in await other.fetch(OURS)] == [(f"streams.{index.name}", True)]
    await other.close()


async def test_two_migrations_make_it_once(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """The second one waits, and a server's doesn't."""
    note_steps.write("note_stream.py", 'config = {"name": "note", "schema": {"type": "object"}, "indexes": ["n"]}')
    done = await asyncio.gather(*(asyncio.to_thread(migrate, url, note_steps.path) for _ in range(2)))
    assert sorted("made the index" in one.stderr for one in done) == [False, True]
    await sql.execute(f"drop index streams.{note('n').indexes[0].name}")
    other = await asyncpg.connect(url, server_settings={"application_name": "tidelog migrate"})
    await other.execute(f"select pg_advisory_lock(1953064044, {INDEX_LOCK})")
    assert await make_indexes(sql, [note("n")], is_for_a_server=True) == []
    assert await sql.fetch(OURS) == []
    await other.close()


async def test_a_wrong_expression_is_told_with_its_file_and_hinders_nobody(
    url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """In Postgres's words. All else is made, and a server serves without it."""
    wrong = '{"expression": "upper(data)"}'
    note_steps.write("note_stream.py", f'config = {{"name": "note", "schema": {{}}, "indexes": ["n", {wrong}]}}')
    note_steps.write("task_stream.py", f'config = {{"name": "task", "schema": {{}}, "indexes": ["n", {wrong}]}}')
    with pytest.raises(RuntimeError, match="stream_table_unfit: all streams are migrated, but not all") as refused:
        await asyncio.to_thread(migrate, url, note_steps.path)
    assert str(refused.value).count("function upper(jsonb) does not exist") == 2
    assert f"({note_steps.path}/note_stream.py): its index {wrong}" in str(refused.value)
    assert [row["is_valid"] for row in await sql.fetch(OURS)] == [True]
    assert await sql.fetchval("select count(*) from pg_index where indrelid = 'streams.task'::regclass") == 3
    (trouble,) = await make_indexes(sql, [note("n", {"expression": "upper(data)"})], is_for_a_server=True)
    assert "does not exist" in trouble


async def test_a_value_that_is_too_long_for_an_index_is_told(url: str, sql: Sql) -> None:
    """Stored before, it keeps the index from being made, of which nothing is left; written later, it is refused."""
    long = "data = jsonb_build_object('n', (select string_agg(md5(i::text), '') from generate_series(1, 200) i))"
    await sql.execute(f"update streams.note set {long}")
    with pytest.raises(StreamTableError, match="index row size"):
        await run(url, note("n"))
    assert await sql.fetch(OURS) == []
    await sql.execute("update streams.note set data = '{}'")
    await run(url, note("n"))
    with pytest.raises(asyncpg.ProgramLimitExceededError):
        await sql.execute(f"update streams.note set {long}")


async def test_something_else_that_has_an_index_s_name_is_let_be(url: str, sql: Sql) -> None:
    """And told."""
    stream = note("n")
    await sql.execute(f"create table streams.{stream.indexes[0].name} (n int)")
    with pytest.raises(StreamTableError, match="is taken by something else"):
        await run(url, stream)
    assert await sql.fetchval(f"select count(*) from streams.{stream.indexes[0].name}") == 0


async def test_an_application_s_plugin_makes_them(url: str, sql: Sql) -> None:
    """With `plugin.migrate()`; and an application's own migration, in its transaction, on a table without items."""
    plugin = TidelogPlugin(TidelogConfig(database_url=url, streams=[note("n")]))
    await asyncio.to_thread(plugin.migrate)
    assert [row["is_valid"] for row in await sql.fetch(OURS)] == [True]
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(url))
    async with engine.begin() as connection:
        await connection.run_sync(upgrade_on, [note("n"), Stream("task", indexes=["n"])])
    await engine.dispose()
    assert await sql.fetchval("select count(*) from pg_index where indrelid = 'streams.task'::regclass") == 3


async def test_in_a_transaction_it_says_what_to_run_where_there_are_items(
    url: str, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody's writes are locked out for an index."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(url))
    async with engine.begin() as connection:
        await connection.run_sync(upgrade_on, [note("n")])
    await engine.dispose()
    (index,) = note("n").indexes
    assert f"run `create index concurrently if not exists {index.name} on streams.note" in caplog.text
    assert await sql.fetch(OURS) == []


async def test_the_sql_of_the_offline_mode_makes_them(empty_url: str, note_steps: StepsFolder) -> None:
    """Run by psql; a migration online has nothing left to do."""
    note_steps.write("note_stream.py", """config = {"name": "note", "schema": {}, "indexes": ["n", "it's"]}""")
    script = (await asyncio.to_thread(migrate, empty_url, note_steps.path, "upgrade", "head", "--sql")).stdout
    command = [PSQL, "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", empty_url]
    done = await asyncio.to_thread(subprocess.run, command, input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    sql = await connect_sql(empty_url)
    try:
        assert [row["is_valid"] for row in await sql.fetch(OURS)] == [True, True]
        assert await make_indexes(sql, [Stream("note", indexes=["n", "it's"])], is_for_a_server=False) == []
    finally:
        await sql.close()
