"""A stream's table that was renamed, dropped, or lost a trigger: no other stream is told, and the log is made good.

What nobody has to decide is mended by the next migration; everything else is refused, with the statement that mends it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import RUN, Server, Sql, StepsFolder, connect_sql, free_port, migrate
from tests.migrations.catalog import definitions_of
from tests.migrations.test_refusals import serve, stream
from tidelog.model.retention import StreamRetention
from tidelog.store.log import Numbering
from tidelog.store.stream_retention import begin_walk, remove_changes
from tidelog.store.undeclared import warn_of_undeclared

LIVE = """
    select group_id, id, version, data from (
        select distinct on (group_id, id) * from streams.change where stream = $1 order by group_id, id, seq desc
    ) last
    where op <> 'delete' order by group_id, id
"""
OPS = "select stream, op, id from streams.change order by seq"
SECOND = "insert into streams.{} (group_id, id, data) values ('g', 'b', '{{}}')"
# asyncpg's errors carry it; so do the messages of the start and of a migration.
STATEMENT = re.compile(r"`(.*?)`", re.DOTALL)


async def declare(sql: asyncpg.Connection[Any], name: str = "note", table: str | None = None) -> str | None:
    answer: str | None = await sql.fetchval("select streams.declare($1, $2, '{}')", name, table or name)
    return answer


async def refusal(sql: asyncpg.Connection[Any], name: str = "note") -> tuple[str, list[str]]:
    """Why a stream is refused, and the statements that are offered."""
    with pytest.raises(asyncpg.PostgresError) as refused:
        await declare(sql, name)
    return str(refused.value.args[0]), STATEMENT.findall(str(refused.value.hint))


async def check_fold(sql: asyncpg.Connection[Any], name: str = "note", table: str | None = None) -> None:
    """The changes of the log, laid on top of each other, are the table."""
    items = await sql.fetch(f"select group_id, id, version, data from streams.{table or name} order by group_id, id")
    assert await sql.fetch(LIVE, name) == items


async def ops(sql: asyncpg.Connection[Any]) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in await sql.fetch(OPS)]


# Renamed.


async def test_a_backup_beside_the_table_deletes_nothing_of_the_stream(sql: Sql) -> None:
    """A write to it is refused, with the statements that make it a plain table; after these anything may be done."""
    await sql.execute("alter table streams.note rename to note_old")
    _, (give_back, drop_triggers) = await refusal(sql)
    assert give_back == "alter table streams.note_old rename to note;"
    for write in ("delete from streams.note_old", "update streams.note_old set data = '{}'", SECOND.format("note_old")):
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="note_old was renamed") as refused:
            await sql.execute(write)
        assert "drop trigger tidelog_record on streams.note_old;" in refused.value.hint
        assert "scripts/migrate (installed: tidelog migrate) says what to do" in refused.value.hint
    before = await ops(sql)
    await sql.execute(drop_triggers)
    await declare(sql)
    await sql.execute(SECOND.format("note"))
    await sql.execute("update streams.note_old set data = '{}'; delete from streams.note_old")
    assert await ops(sql) == [*before, ("note", "delete", "a"), ("note", "create", "b")]
    await check_fold(sql)


async def test_the_hint_of_a_refused_write_makes_a_plain_table(sql: Sql) -> None:
    """Of somebody who knows nothing but the error of psql."""
    await sql.execute("alter table streams.note rename to note_old")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as refused:
        await sql.execute("delete from streams.note_old")
    await sql.execute(re.search(r"run: (.*;)", refused.value.hint).group(1))
    await sql.execute("truncate streams.note_old")


async def test_a_renamed_table_gets_its_name_back(sql: Sql) -> None:
    """By the statement that is offered; then it is as if nothing had been."""
    before = await definitions_of(sql)
    await sql.execute("create schema archive; alter table streams.note rename to note_old")
    await sql.execute("alter table streams.note_old set schema archive")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=r"archive\.note_old was renamed"):
        await sql.execute("delete from archive.note_old")
    _, (give_back, _) = await refusal(sql)
    await sql.execute(give_back)
    assert await declare(sql) is None
    assert await definitions_of(sql) == before


async def test_a_table_that_moved_to_another_schema_is_refused(sql: Sql) -> None:
    """Under its own name, too."""
    await sql.execute("create schema archive; alter table streams.note set schema archive")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=r"archive\.note was renamed"):
        await sql.execute("delete from archive.note")
    trouble, (give_back, _) = await refusal(sql)
    assert "the table of stream note is archive.note" in trouble
    assert give_back == "alter table archive.note set schema streams;"


async def test_a_table_that_is_renamed_with_its_declaration_serves_the_new_stream(sql: Sql) -> None:
    """After the statement that is offered: its items are created there, and what is written is the new stream's."""
    await sql.execute("alter table streams.note rename to task")
    trouble, (take, give_back) = await refusal(sql, "task")
    assert trouble == "streams.task has the triggers of stream note: it was renamed"
    assert give_back == "alter table streams.task rename to note;"
    await sql.execute(take)
    assert "logged 1 items as created" in await declare(sql, "task")
    await sql.execute(SECOND.format("task"))
    assert await ops(sql) == [("note", "create", "a"), ("task", "create", "a"), ("task", "create", "b")]
    await check_fold(sql, "task")
    # The old name may be a stream again: an empty one.
    assert "logged 1 items as deleted" in await declare(sql, "note")
    await check_fold(sql)


async def test_a_stream_whose_name_folds_to_the_same_table_can_take_it(sql: Sql) -> None:
    """By the statement that is offered."""
    with pytest.raises(asyncpg.PostgresError) as refused:
        await declare(sql, "Note", "note")
    await sql.execute(STATEMENT.findall(refused.value.hint)[0])
    assert "logged 1 items as created" in await declare(sql, "Note", "note")
    await check_fold(sql, "Note", "note")
    assert await sql.fetchval("select pg_get_viewdef('streams.note_history'::regclass) like '%Note%'")


async def test_items_of_a_stream_that_was_renamed_in_its_file_alone_are_told_and_can_be_moved(
    url: str, sql: Sql, steps: StepsFolder
) -> None:
    """By a migration and by a server, until the statements that are offered have run. What has no items isn't told."""
    told = "streams.note has items, but no file declares the stream note"
    steps.write("task_stream.py", stream("task"))
    said = (await asyncio.to_thread(migrate, url, steps.path)).stderr
    assert told in said
    server = Server(url, steps.path, {}, free_port())
    try:
        await server.wait_until_ready()
        (warning,) = [record["message"] for record in server.records("tidelog.streams")]
    finally:
        await server.stop()
    assert told in warning and warning in said
    rename, drop, statements = STATEMENT.findall(warning)
    assert (rename, drop) == ("tidelog rename-stream note NEW", "tidelog drop-stream note")
    await sql.execute(statements.replace("NEW", "task"))
    assert [tuple(row) for row in await sql.fetch("select id, data from streams.task")] == [("a", {"id": "a", "n": 1})]
    assert "note" not in (await asyncio.to_thread(migrate, url, steps.path)).stderr


async def test_an_undeclared_stream_that_is_locked_or_forbidden_holds_up_no_start(
    url: str, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said of it then."""
    async with sql.transaction():
        await sql.execute("lock table streams.note")
        other = await asyncpg.connect(url)
        await warn_of_undeclared(other, [])
    nobody = f"tidelog_test_nobody_{RUN}"
    await other.execute(f"create role {nobody}; grant usage on schema streams to {nobody}")
    try:
        await other.execute(f"grant select on streams.stream to {nobody}; set role {nobody}")
        await warn_of_undeclared(other, [])
    finally:
        await other.execute(f"reset role; drop owned by {nobody}; drop role {nobody}")
        await other.close()
    assert "note" not in caplog.text


# Gone.


async def test_a_dropped_table_is_made_anew_and_its_items_are_told_to_be_gone(
    url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """The view of its history, which was left, shows it; the other streams are migrated; a second run does nothing."""
    await sql.execute(SECOND.format("note") + "; update streams.note set data = '{\"n\": 2}' where id = 'b'")
    await sql.execute("delete from streams.note where id = 'b'; drop table streams.note")
    note_steps.write("task_stream.py", stream("taskList"))
    said = (await asyncio.to_thread(migrate, url, note_steps.path)).stderr
    assert "the table streams.note of stream note is gone: mended; logged 1 items as deleted" in said
    assert "made streams.task_list for stream taskList" in said
    await (await Numbering.load(sql)).advance(sql)
    history = await sql.fetch("select op, id, data from streams.note_history order by position desc, seq desc limit 1")
    assert history == [("delete", "a", {"id": "a", "n": 1})]
    await check_fold(sql)
    await sql.execute(SECOND.format("note"))
    assert await declare(sql) is None


async def test_one_streams_trouble_does_not_stop_the_others(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """The migration names it with its statement and fails; the others are made. So does the start name it."""
    await sql.execute("alter table streams.note rename to note_old; create view streams.note as select 1 as n")
    note_steps.write("task_stream.py", stream("taskList"))
    with pytest.raises(RuntimeError) as failed:
        await asyncio.to_thread(migrate, url, note_steps.path)
    for told in (str(failed.value), await serve(url, note_steps.path)):
        assert "stream note needs the name streams.note, which is taken by something else" in told
        assert "`alter table streams.note rename to note_other;`" in told
    await sql.execute(SECOND.format("task_list"))
    assert (await ops(sql))[-1] == ("taskList", "create", "b")


@pytest.mark.parametrize(
    ("damage", "trouble"),
    [
        ("drop view streams.note_history", "the view streams.note_history of stream note is missing"),
        ("alter view streams.note_history rename to h", "the view streams.note_history of stream note is missing"),
        ("delete from streams.stream", "streams.stream has no row for stream note"),
        ("drop trigger tidelog_record on streams.note", "the trigger tidelog_record of streams.note is missing"),
        (
            'drop trigger "~tidelog_complete" on streams.note',
            "the trigger ~tidelog_complete of streams.note is missing",
        ),
        ("alter table streams.note disable trigger all", "the trigger ~tidelog_complete of streams.note is disabled"),
        ("alter table streams.note enable trigger all", "the trigger tidelog_record of streams.note is disabled"),
        ("alter table streams.note disable trigger tidelog_refuse_truncate", "tidelog_refuse_truncate of streams.note"),
    ],
)
async def test_what_nobody_has_to_decide_is_named_and_mended(sql: Sql, damage: str, trouble: str) -> None:
    """By the next migration; what was written meanwhile is in the log then, and after that all is as it was."""
    before = await definitions_of(sql)
    await sql.execute(damage)
    await sql.execute(
        SECOND.format("note") + "; update streams.note set data = '{\"n\": 2}' where id = 'a'; "
        "insert into streams.note (group_id, id, data) values ('g', 'c', '{}'); delete from streams.note where id = 'c'"
    )
    found = await sql.fetch("select severity, trouble from streams.examine('note', 'note')")
    assert {row["severity"] for row in found} == {"mend"}
    assert any(trouble in row["trouble"] for row in found)
    assert trouble in await declare(sql)
    after = await definitions_of(sql)
    assert before.items() <= after.items()
    await check_fold(sql)
    assert [row["data"]["id"] for row in await sql.fetch("select data from streams.note order by id")] == ["a", "b"]
    assert await declare(sql) is None


async def test_deletes_and_updates_that_no_trigger_saw_are_logged(sql: Sql) -> None:
    """One of each, and nothing of what is as it was."""
    await sql.execute(SECOND.format("note") + "; insert into streams.note (group_id, id, data) values ('g', 'c', '{}')")
    before = await ops(sql)
    await sql.execute("alter table streams.note disable trigger tidelog_record")
    await sql.execute(
        "delete from streams.note where id = 'a'; update streams.note set data = '{\"n\": 3}' where id = 'b'"
    )
    assert "logged 1 items as deleted, 1 items as updated" in await declare(sql)
    assert sorted((await ops(sql))[len(before) :]) == [("note", "delete", "a"), ("note", "update", "b")]
    await check_fold(sql)


async def test_items_that_retention_took_from_the_log_are_not_created_again(sql: Sql) -> None:
    """The log can't tell them from those that came unseen."""
    numbering = await Numbering.load(sql)
    for statement in (SECOND.format("note"), "update streams.note set data = '{\"n\": 5}' where id = 'b'"):
        await numbering.advance(sql)
        await sql.execute(statement)
    await numbering.advance(sql)
    await sql.execute("delete from streams.change using streams.commit n where change.xid = n.xid and n.number = 1")
    await sql.execute("delete from streams.commit where number = 1; drop trigger tidelog_record on streams.note")
    assert "logged" not in (await declare(sql) or "logged")


async def test_items_that_the_streams_retention_took_from_the_log_are_not_created_again(sql: Sql) -> None:
    """Though the beginning of the log is there."""
    numbering = await Numbering.load(sql)
    for statement in (SECOND.format("note"), "update streams.note set data = '{\"n\": 5}' where id = 'b'"):
        await numbering.advance(sql)
        await sql.execute(statement)
    await numbering.advance(sql)
    kept = StreamRetention(seconds=0.000001)
    walked = await begin_walk(sql, "note", kept)
    assert (await remove_changes(sql, "note", kept, after=walked, commits_max=1)).removed == 1
    await sql.execute("drop trigger tidelog_record on streams.note")
    assert "logged" not in (await declare(sql) or "logged")


async def test_rows_that_cant_be_items_are_refused_with_the_statement_that_shows_them(sql: Sql) -> None:
    """They came while the triggers that refuse them were away."""
    await sql.execute("alter table streams.note disable trigger all; update streams.note set data = '[1]'")
    trouble, (show,) = await refusal(sql)
    assert "1 rows of streams.note can't be items of stream note" in trouble
    assert [row["id"] for row in await sql.fetch(show)] == ["a"]


@pytest.mark.parametrize(
    ("damage", "trouble"),
    [
        ("alter table streams.note alter column id type varchar(100)", "the column id of streams.note is of type"),
        ("alter table streams.note drop column version", "the column version of streams.note is missing"),
        ("alter table streams.note alter column version drop default", "the column version of streams.note has no"),
        ("alter table streams.note drop constraint note_pkey", "streams.note has no primary key"),
    ],
)
async def test_a_table_that_was_altered_is_refused_with_the_statement_that_mends_it(
    sql: Sql, damage: str, trouble: str
) -> None:
    """Rather than failing at each write or snapshot."""
    await sql.execute(damage)
    said, (statement,) = await refusal(sql)
    assert trouble in said
    await sql.execute(statement)
    assert await declare(sql) is None
    await sql.execute(SECOND.format("note"))


async def test_a_table_that_was_made_anew_by_hand_is_no_streams(sql: Sql) -> None:
    """A copy has neither key nor defaults: what it lacks is named."""
    await sql.execute("create table streams.copy as table streams.note; drop table streams.note")
    await sql.execute("alter table streams.copy rename to note")
    said, statements = await refusal(sql)
    assert "the column version of streams.note has no default" in said
    for statement in statements:
        await sql.execute(statement)
    _, (add_key,) = await refusal(sql)
    await sql.execute(add_key)
    await declare(sql)
    await sql.execute(SECOND.format("note"))
    await check_fold(sql)


async def test_a_stray_backup_stops_nothing_and_is_named_at_the_start(
    url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """The stream has its own table; the log of the server says how to be rid of the other's triggers."""
    await sql.execute("alter table streams.note rename to note_old")
    await sql.execute("create table streams.note (like streams.note_old including all)")
    await declare(sql)
    server = Server(url, note_steps.path, {}, free_port())
    try:
        await server.wait_until_ready()
    finally:
        await server.stop()
    assert "streams.note_old has the triggers of stream note, whose table is streams.note" in server.log()


# Upgrading.


@pytest.fixture
async def old_sql(empty_url: str, steps: StepsFolder) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database of revision 0001 with two streams and an item in each."""
    await asyncio.to_thread(migrate, empty_url, steps.path, "upgrade", "0001")
    connection = await connect_sql(empty_url)
    for table in ("note", "task"):
        await connection.execute("select streams.declare($1, $1, '{}')", table)
        await connection.execute(f"insert into streams.{table} (group_id, id, data) values ('g', 'a', '{{}}')")
    yield connection
    await connection.close()


async def test_a_database_of_the_first_revision_is_upgraded_with_its_data(
    empty_url: str, old_sql: Sql, note_steps: StepsFolder
) -> None:
    """Nothing is logged by it, and what a server of before says works on, in sessions that were there."""
    note_steps.write("task_stream.py", stream("task"))
    update = await old_sql.prepare("update streams.note set data = $1")
    send = await old_sql.prepare("select streams.send($1, $2, $3, $4, $5::text::jsonb)")
    await update.fetch({"n": 1})
    await send.fetch("note", "g", None, "typing", "{}")
    before = await ops(old_sql)
    assert "made" not in (await asyncio.to_thread(migrate, empty_url, note_steps.path)).stderr
    assert await ops(old_sql) == before
    await update.fetch({"n": 2})
    await send.fetch("note", "g", None, "typing", "{}")
    assert (await ops(old_sql))[len(before) :] == [("note", "update", "a")]
    assert await old_sql.fetchval("select count(*) from streams.event") == 2
    for table in ("note", "task"):
        assert await declare(old_sql, table) is None
        await check_fold(old_sql, table)


async def test_a_table_that_was_renamed_before_the_upgrade_is_refused_after_it(
    empty_url: str, old_sql: Sql, note_steps: StepsFolder
) -> None:
    """Beside the stream's own one, and in its place."""
    await old_sql.execute("alter table streams.note rename to note_old")
    with pytest.raises(RuntimeError, match=r"the table of stream note is streams\.note_old"):
        await asyncio.to_thread(migrate, empty_url, note_steps.path)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="note_old was renamed"):
        await old_sql.execute("delete from streams.note_old")


async def test_an_upgrade_waits_for_writers_and_lets_them_go_first(
    empty_url: str, old_sql: Sql, note_steps: StepsFolder
) -> None:
    """One that has written one table, and then another while the migration waits for the first, is not ended."""
    await old_sql.execute(f"alter database \"{make_url(empty_url).database}\" set deadlock_timeout = '1s'")
    writer = await connect_sql(empty_url)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("update streams.task set data = '{\"n\": 1}'")
    migrating = asyncio.create_task(asyncio.to_thread(migrate, empty_url, note_steps.path))
    waits = "select exists (select from pg_locks where not granted and relation = 'streams.task'::regclass)"
    while not await old_sql.fetchval(waits):
        assert not migrating.done(), await migrating
    await writer.execute("update streams.note set data = '{\"n\": 1}'")
    await transaction.commit()
    await migrating
    await writer.close()
    assert await declare(old_sql, "task") is None
