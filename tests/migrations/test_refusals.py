"""What can't be migrated or served is told with its cause and what to do, and nothing is half done."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import RUN, Databases, Server, Sql, StepsFolder, Subscriber, connect_sql, free_port, migrate
from tests.migrations.catalog import objects_of
from tidelog.errors import DeclarationError
from tidelog.model.stream import RESERVED_TABLE_NAMES, table_name

PLAIN_RELATIONS = """
select relname from pg_class
where relnamespace = 'streams'::regnamespace and relkind in ('r', 'p', 'S', 'v')
and relname not in ('note', 'note_history', '_note_log') and relname not like 'change~%'
"""


def stream(name: str) -> str:
    return f'config = {{"name": "{name}", "schema": {{"type": "object"}}}}\n'


async def run_alembic(url: str, steps: StepsFolder) -> str:
    """What it says."""
    return (await asyncio.to_thread(migrate, url, steps.path)).stderr


async def serve(url: str, steps_dir: Path) -> str:
    """The log of a server that must not start."""
    server = Server(url, steps_dir, {}, free_port())
    try:
        with pytest.raises(RuntimeError, match=r"the server ended with [1-9]") as ended:
            await server.wait_until_ready()
    finally:
        await server.stop()
    return str(ended.value)


async def test_a_server_on_an_empty_database_names_the_command(empty_url: str, note_steps: StepsFolder) -> None:
    """It ends, and its last words are what to run."""
    log = await serve(empty_url, note_steps.path)
    assert "this database has no Tidelog tables yet: run `scripts/migrate`" in log


async def test_a_server_whose_stream_has_no_table_names_it_and_the_command(url: str, note_steps: StepsFolder) -> None:
    """The core is there and one stream is not migrated."""
    note_steps.write("task_stream.py", stream("taskList"))
    assert "no tables yet for the streams taskList: run `scripts/migrate`" in await serve(url, note_steps.path)


async def test_a_broken_file_is_reported_and_the_others_are_migrated(url: str, sql: Sql, steps: StepsFolder) -> None:
    """With its path and its cause: a syntax error, an exception, a name that is taken or can't be one, a bad schema."""
    broken = {
        "syntax_stream.py": ("config = {", "'{' was never closed"),
        "raises_stream.py": ("raise ValueError('on purpose')", "on purpose"),
        "none_stream.py": ("", "config"),
        "reserved_stream.py": (stream("change"), "is taken by Tidelog itself"),
        "history_stream.py": (stream("noteHistory"), "is taken by Tidelog itself"),
        "long_stream.py": (stream("x" * 49), "at most 48"),
        "letters_stream.py": (stream("no spaces"), "use letters, digits"),
        "schema_stream.py": (
            'config = {"name": "badSchema", "schema": {"type": "no such"}}',
            "not a valid JSON Schema",
        ),
    }
    for name, (text, _) in broken.items():
        steps.write(f"below/{name}", text)
    steps.write("task_stream.py", stream("taskList"))
    said = await run_alembic(url, steps)
    for name, (_, cause) in broken.items():
        (line,) = (line for line in said.splitlines() if f"below/{name}" in line)
        assert cause in line
    assert "made streams.task_list for stream taskList" in said
    assert {row["name"] for row in await sql.fetch("select name from streams.stream")} == {"note", "taskList"}


async def test_two_streams_of_one_table_are_an_error(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """Both files are named, and no other stream is migrated either: which one is meant is not ours to guess."""
    before = await objects_of(sql)
    note_steps.write("one_stream.py", stream("taskList"))
    note_steps.write("two_stream.py", stream("task-list"))
    with pytest.raises(RuntimeError, match=r"'taskList' in .*one_stream\.py and .*'task-list' in .*two_stream\.py"):
        await run_alembic(url, note_steps)
    assert await objects_of(sql) == before


async def test_a_stream_that_was_renamed_within_its_table_is_an_error(url: str, sql: Sql, steps: StepsFolder) -> None:
    """Its triggers log the old name: the message says whose table it is, and the others are migrated."""
    before = await objects_of(sql)
    steps.write("note_stream.py", stream("Note"))
    steps.write("task_stream.py", stream("taskList"))
    with pytest.raises(RuntimeError, match=r"stream Note needs the table streams\.note, which belongs to stream note"):
        await run_alembic(url, steps)
    after = await objects_of(sql)
    assert before.items() <= after.items()
    assert {name for kind, name in after.keys() - before.keys() if kind == "relation"} == {
        "task_list",
        "task_list_pkey",
        "task_list_expires_at_idx",
        "task_list_history",
        "_task_list_log",
    }


async def test_a_column_of_the_users_that_items_would_be_deleted_by_is_an_error(
    url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """The one that says when an item expires is ours by its comment; theirs is named, and nothing else is changed."""
    await sql.execute("alter table streams.note drop column expires_at")
    await sql.execute("alter table streams.note add column expires_at timestamptz default now()")
    await sql.execute("insert into streams.note (group_id, id, data) values ('theirs', 'a', '{}')")
    assert await sql.fetchval("select streams.expire_items(10)") == 0
    with pytest.raises(RuntimeError, match=r"expires_at of streams\.note is somebody's own.*rename column expires_at"):
        await run_alembic(url, note_steps)
    await sql.execute("alter table streams.note rename column expires_at to expires")
    assert "has no column expires_at: mended" in await run_alembic(url, note_steps)


async def test_a_table_of_the_users_in_the_way_is_an_error(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """A table that is no stream's is not taken for one, and it stays."""
    await sql.execute("create table streams.task_list (n int)")
    before = await objects_of(sql)
    note_steps.write("task_stream.py", stream("taskList"))
    with pytest.raises(RuntimeError, match=r"taskList needs the name streams\.task_list, which is taken"):
        await run_alembic(url, note_steps)
    assert await objects_of(sql) == before
    assert await sql.fetchval("select count(*) from streams.stream") == 1


@pytest.mark.parametrize("kind", ["view {} as select 1 as n", "sequence {}", "type {} as (n int)"])
async def test_whatever_else_has_the_name_is_not_taken_for_the_table(sql: Sql, kind: str) -> None:
    """Also what is no table, and the names of the core's own indexes."""
    await sql.execute(f"create {kind.format('streams.in_the_way')}")
    for name in ("in_the_way", "change_pkey"):
        with pytest.raises(asyncpg.DuplicateTableError, match="which is taken by something else"):
            await sql.execute("select streams.declare($1, $1, '{}')", name)
    assert await sql.fetchval("select count(*) from streams.stream") == 1


async def test_a_users_table_elsewhere_is_not_in_the_way(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """A table of the same name in another schema, first in the search path, has nothing to do with it."""
    await sql.execute("create table public.task_list (n int)")
    await sql.execute("create table public.change (n int)")
    await sql.execute("create table public.alembic_version (version_num text)")
    note_steps.write("task_stream.py", stream("taskList"))
    assert "made streams.task_list" in await run_alembic(url, note_steps)
    await sql.execute("insert into streams.task_list (group_id, id, data) values ('g', 'a', '{}')")
    assert await sql.fetchval("select stream from streams.change order by seq desc") == "taskList"
    for table in ("task_list", "change", "alembic_version"):
        assert await sql.fetchval(f"select count(*) from public.{table}") == 0


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (
            "create function streams.task_list_as_of(bigint) returns text language sql as $$ select 'mine' $$",
            "alter routine streams.task_list_as_of(bigint) rename to task_list_other;",
        ),
        ("create view streams._task_list_log as select 1", "alter view streams._task_list_log rename to"),
    ],
)
async def test_a_name_of_its_time_travel_that_is_taken_is_an_error(
    url: str, sql: Sql, note_steps: StepsFolder, make: str, remedy: str
) -> None:
    """What somebody else made is told, and stays; renamed as the message says, the stream is migrated."""
    await sql.execute(make)
    before = await objects_of(sql)
    note_steps.write("task_stream.py", stream("taskList"))
    with pytest.raises(RuntimeError, match=r"stream taskList needs the name streams\.") as refused:
        await run_alembic(url, note_steps)
    assert remedy in str(refused.value)
    assert await objects_of(sql) == before
    await sql.execute(re.findall(r"`(.*?)`", str(refused.value))[0])
    await run_alembic(url, note_steps)
    assert await sql.fetch("select * from streams.task_list_as_of(0)") == []


async def test_every_name_of_the_core_is_refused_for_a_stream(sql: Sql) -> None:
    """The reserved names are those that the core's own tables and sequences have."""
    names = {row["relname"] for row in await sql.fetch(PLAIN_RELATIONS)}
    assert names == RESERVED_TABLE_NAMES
    for name in names:
        with pytest.raises(DeclarationError, match="is taken by Tidelog itself"):
            table_name(name)


@pytest.fixture
async def owner_url(databases: Databases, empty_url: str) -> AsyncIterator[str]:
    """An empty database that belongs to a role which may do nothing else."""
    role = f"tidelog_test_owner_{RUN}"
    database = make_url(empty_url).database
    sql = await connect_sql(empty_url)
    await sql.execute(f"create role {role} login password 'x'")
    await sql.execute(f'alter database "{database}" owner to {role}')
    yield make_url(empty_url).set(username=role, password="x").render_as_string(hide_password=False)
    await sql.execute(f'alter database "{database}" owner to current_user')
    await sql.execute(f"drop owned by {role}")
    await sql.execute(f"drop role {role}")
    await sql.close()


async def test_a_role_that_owns_its_database_needs_no_more(owner_url: str, note_steps: StepsFolder) -> None:
    """It migrates, serves, and sees what is written: no superuser is needed."""
    await run_alembic(owner_url, note_steps)
    server = Server(owner_url, note_steps.path, {}, free_port())
    sql = await connect_sql(owner_url)
    try:
        await server.wait_until_ready()
        async with Subscriber.connect(server) as subscriber:
            view = await subscriber.view("note", "g")
            await sql.execute("insert into streams.note (group_id, id, data) values ('g', 'a', '{}')")
            await subscriber.until_mark(sql, view)
        assert view.items == {"a": {"id": "a"}}
    finally:
        await sql.close()
        await server.stop()
