"""A stream is renamed or dropped by a command, and by nothing else; who follows it sees what became of it."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests import forks
from tests.harness import (
    Server,
    Sql,
    StepsFolder,
    Subscriber,
    connect_sql,
    free_port,
    migrate,
    server_environment,
    until_numbered,
)
from tests.integration.sequencer_fixtures import sequencing
from tests.migrations.test_mending import LIVE
from tests.migrations.test_refusals import stream
from tidelog.errors import MigrationFailedError, StreamsNotMigratedError, StreamTableError
from tidelog.runtime.discovery import discover
from tidelog.store.requirements import is_to_be_migrated
from tidelog.store.stream_changes import drop_stream, list_streams, rename_stream
from tidelog.store.stream_tables import check_stream_tables

LOGGED = "select stream, op, id, version from streams.change order by seq"


async def tidelog(url: str, steps: StepsFolder, *arguments: str, typed: str = "") -> tuple[int, str]:
    """What `tidelog ...` ends with, and says."""
    done = await asyncio.to_thread(forks.run, "tidelog.cli", arguments, server_environment(url, steps.path), typed)
    return done.returncode, done.stdout + done.stderr


async def items_of(sql: asyncpg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    query = f"select group_id, id, version, data from streams.{table} order by group_id, id"
    return [tuple(row) for row in await sql.fetch(query)]


async def live_in_log(sql: asyncpg.Connection[Any], name: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await sql.fetch(LIVE, name)]


async def test_a_list_says_what_is_declared_and_what_is_there(url: str, sql: Sql, steps: StepsFolder) -> None:
    """Those of the files, of the database, and of both."""
    steps.write("task_stream.py", stream("taskList"))
    await sql.execute("analyze streams.note")
    status, said = await tidelog(url, steps, "streams")
    assert status == 0 and said.splitlines() == [
        "note    streams.note    about 1 items    undeclared: no file declares it",
        "taskList    streams.task_list    declared, and not migrated",
    ]
    await asyncio.to_thread(migrate, url, steps.path)
    assert [(one.name, one.is_there, one.items) for one in await list_streams(sql)] == [
        ("note", True, 1),
        ("taskList", True, None),
    ]


async def test_a_list_of_nothing_says_so(url: str, sql: Sql, steps: StepsFolder) -> None:
    """Nothing printed would be a wrong folder, or another database than was meant."""
    await drop_stream(sql, "note")
    assert await tidelog(url, steps, "streams") == (
        0, f"no stream is declared in {steps.path}, and none is in the database\n"
    )  # fmt: skip
    assert await tidelog(url, steps, "convert-keys") == (0, "no stream is in the database\n")


async def test_a_dropped_stream_is_deleted_item_by_item_before_its_subscribers_eyes(
    url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """Its table and view are gone, the log keeps what it had; a name that is typed wrong drops nothing."""
    status, said = await tidelog(url, note_steps, "drop-stream", "note", typed="nota\n")
    assert status == 1 and "nothing was changed" in said
    server = Server(url, note_steps.path, {}, free_port())
    try:
        await server.wait_until_ready()
        async with Subscriber.connect(server) as subscriber:
            view = await subscriber.view("note", "g")
            assert view.items == {"a": {"id": "a", "n": 1}}
            status, said = await tidelog(url, note_steps, "drop-stream", "note", typed="note\n")
            assert status == 0, said
            assert "1 items were logged as deleted" in said and "A file declares it still" in said
            await subscriber.until(lambda _: not view.items)
    finally:
        await server.stop()
    assert await sql.fetch("select from streams.stream") == []
    assert await sql.fetchval("select to_regclass('streams.note_history')") is None
    assert [tuple(row) for row in await sql.fetch(LOGGED)][-1] == ("note", "delete", "a", 1)
    assert await sql.fetchval("select data from streams.change order by seq desc limit 1") == {"id": "a", "n": 1}
    await asyncio.to_thread(migrate, url, note_steps.path)  # the name is free: it is a new stream with the old history
    assert await items_of(sql, "note") == [] == await live_in_log(sql, "note")
    assert await sql.fetchval("select count(*) from streams.note_history where op = 'delete'") == 1


async def test_a_renamed_stream_has_its_items_rights_and_indexes(url: str, sql: Sql, steps: StepsFolder) -> None:
    """Under its new name, at their versions; in the log they went from the one to the other, in one commit."""
    indexed = '{{"name": "{}", "schema": {{"type": "object"}}, "indexes": ["n"]}}'
    steps.write("note_stream.py", f"config = {indexed.format('note')}")
    await asyncio.to_thread(migrate, url, steps.path)
    await sql.execute("update streams.note set data = '{\"n\": 2}'")
    rights = (
        "select relacl::text from pg_class where relname = any (array[$1, $1 || '_history', '_' || $1 || '_log']) "
        "order by replace(relname, $1, '')"
    )
    before, granted = await items_of(sql, "note"), await sql.fetch(rights, "note")
    index = await sql.fetchval(
        "select indexrelid from pg_index where indrelid = 'streams.note'::regclass and not indisprimary"
    )
    status, said = await tidelog(url, steps, "rename-stream", "note", "taskList")
    assert status == 0 and "1 items were logged as created in it" in said and "rename it there" in said
    assert await items_of(sql, "task_list") == before == await live_in_log(sql, "taskList")
    assert await live_in_log(sql, "note") == []
    assert await sql.fetch(rights, "task_list") == granted
    last = await sql.fetch("select stream, op, xid from streams.change order by seq desc limit 2")
    assert [(row["stream"], row["op"]) for row in last] == [("taskList", "create"), ("note", "delete")]
    assert last[0]["xid"] == last[1]["xid"]
    assert await time_travel_of(sql) == {
        "_task_list_log",
        "task_list_as_of(bigint)",
        "task_list_as_of(timestamp with time zone)",
        "task_list_diff(bigint,bigint)",
        "task_list_diff(timestamp with time zone,timestamp with time zone)",
    }
    with sequencing(url):
        await until_numbered(sql)
    assert [row["op"] for row in await sql.fetch("select op from streams.task_list_history")] == ["create"]
    position = await sql.fetchval("select max(number) from streams.commit")
    as_of = "select group_id, id, version, data from streams.task_list_as_of($1::bigint)"
    assert [tuple(row) for row in await sql.fetch(as_of, position)] == before
    assert await sql.fetch(as_of, position - 1) == []
    steps.write("note_stream.py", f"config = {indexed.format('taskList')}")
    assert "INFO" not in (await asyncio.to_thread(migrate, url, steps.path)).stderr.replace("alembic", "")
    assert await sql.fetchval("select indrelid::regclass::text from pg_index where indexrelid = $1", index)
    await sql.execute("insert into streams.task_list (group_id, id, data) values ('g', 'b', '{}')")
    assert await sql.fetchval("select stream from streams.change order by seq desc limit 1") == "taskList"


async def time_travel_of(sql: asyncpg.Connection[Any]) -> set[str]:
    """The views of logs that there are, and the functions over them."""
    rows = await sql.fetch(
        "select relname::text as name from pg_class "
        "where relnamespace = 'streams'::regnamespace and relname ~ '^_.*_log$' "
        "union all select oid::regprocedure::text from pg_proc where proname ~ '(_as_of|_diff)$' "
        "and pronamespace = 'streams'::regnamespace"
    )
    return {row["name"].removeprefix("streams.") for row in rows}


async def test_a_stream_that_lacks_its_time_travel_is_migrated(url: str, sql: Sql, steps: StepsFolder) -> None:
    """As one that an earlier release renamed: its server refuses to begin without, or makes it."""
    steps.write("task_stream.py", stream("task"))
    await asyncio.to_thread(migrate, url, steps.path)
    whole = await time_travel_of(sql)
    for lost in ("view streams._task_log cascade", "function streams.task_as_of(timestamptz)"):
        await sql.execute(f"drop {lost}")
        with pytest.raises(StreamsNotMigratedError, match="task has no whole time travel"):
            await check_stream_tables(sql, discover(steps.path).streams.values())
        assert await is_to_be_migrated(sql, list(discover(steps.path).streams.values()))
        await asyncio.to_thread(migrate, url, steps.path)
        assert await time_travel_of(sql) == whole
        assert not await is_to_be_migrated(sql, list(discover(steps.path).streams.values()))


async def test_a_stream_takes_the_place_of_an_empty_one_and_of_no_other(url: str, sql: Sql, steps: StepsFolder) -> None:
    """A server that was started with the renamed file has made an empty stream of it already."""
    steps.write("task_stream.py", stream("task"))
    steps.write("other_stream.py", stream("other"))
    await asyncio.to_thread(migrate, url, steps.path)
    await sql.execute("insert into streams.other (group_id, id, data) values ('g', 'o', '{}')")
    before = await items_of(sql, "note")
    for name, table in (("other", "other"), ("note", "note"), ("change", "change"), ("Task", "task")):
        with pytest.raises(StreamTableError, match="nothing was changed: "):
            await rename_stream(sql, "note", name, table)
    with pytest.raises(StreamTableError, match="no stream is named 'nobody'"):
        await rename_stream(sql, "nobody", "somebody", "somebody")
    assert await items_of(sql, "note") == before
    # As an earlier release left it behind.
    await sql.execute("create view streams._gone_log as select 1; comment on view streams._gone_log is 'Tidelog: gone'")
    assert await rename_stream(sql, "note", "gone", "gone") == 1
    assert await rename_stream(sql, "gone", "note", "note") == 1
    assert await rename_stream(sql, "note", "task", "task") == 1
    assert await items_of(sql, "task") == before == await live_in_log(sql, "task")
    assert {one.name for one in await list_streams(sql)} == {"other", "task"}
    assert await rename_stream(sql, "task", "Task", "task") == 1  # the same table
    assert await items_of(sql, "task") == before == await live_in_log(sql, "Task")


async def test_what_hangs_on_a_table_keeps_it_from_being_dropped(url: str, sql: Sql) -> None:
    """A view of somebody's is named; row-level security that would hide items is no half of a drop."""
    await sql.execute("create view public.of_theirs as select * from streams.note")
    with pytest.raises(StreamTableError, match=r"of_theirs depends on table streams\.note\. Drop that first"):
        await drop_stream(sql, "note")
    assert len(await items_of(sql, "note")) == 1
    await sql.execute("drop view public.of_theirs; create view public.of_theirs as select * from streams.note_as_of(0)")
    with pytest.raises(StreamTableError, match=r"of_theirs depends on function streams\.note_as_of"):
        await drop_stream(sql, "note")
    await sql.execute("drop view public.of_theirs")
    other = await connect_sql(url)
    async with other.transaction():
        await other.execute("lock table streams.alembic_version in share row exclusive mode")
        with pytest.raises(MigrationFailedError, match="a migration is at work"):
            await drop_stream(sql, "note")
    await other.close()
    await sql.execute("drop table streams.note")
    assert await drop_stream(sql, "note") == 0
    assert await list_streams(sql) == []
    assert await time_travel_of(sql) == set()


async def test_keys_are_converted_by_a_command(url: str, sql: Sql, steps: StepsFolder) -> None:
    """Of the streams that are named, or of all."""
    await sql.execute('alter table streams.note alter group_id type text collate "default"')
    status, said = await tidelog(url, steps, "convert-keys", "nobody")
    assert status == 1 and "no stream is named 'nobody'" in said
    status, said = await tidelog(url, steps, "convert-keys")
    assert (status, said) == (0, 'stream note: its keys are collate "C" now\n')
