"""`alembic upgrade head`: the core, then a table for each declared stream; it never drops or rewrites anything."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from tests.harness import PSQL, ROOT, RUN, Sql, StepsFolder, connect_sql, migrate
from tests.integration.sequencer_fixtures import Log, sequencing
from tests.migrations.catalog import definitions_of, objects_of, schemas_of

TASK_STREAM = 'config = {"name": "taskList", "schema": {"type": "object"}}\n'
HEAD = ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_current_head()
HISTORY_OF_BEFORE = (
    "select position, at, seq, op, group_id, id, version, data, xid from streams.note_history order by 1, 3"
)
NUMBER_OF_BEFORE = """
insert into streams.commit (number, xid, last_seq, at, snapshot)
select row_number() over (order by max(seq)), xid, max(seq), now() + max(seq) * interval '1 ms',
    case when max(max(seq)) over () = max(seq) then pg_current_snapshot() end
from streams.change group by xid
"""
# The first ten, as a release that had no eras did it.
ADOPT_OF_BEFORE = """
with adopted as (
    update streams.commit set xid = (9223372036854775808 + number)::text::xid8 where number <= 10
    returning number, last_seq
)
update streams.change c set xid = (9223372036854775808 + a.number)::text::xid8 from adopted a where c.seq = a.last_seq
"""
ALEMBIC_ALONE = """
from alembic import context
context.configure(dialect_name="postgresql", literal_binds=True)
with context.begin_transaction():
    context.run_migrations()
"""


async def run_alembic(url: str, steps: StepsFolder, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(migrate, url, steps.path, *arguments)


async def test_an_empty_database_gets_the_core_and_the_streams(empty_url: str, note_steps: StepsFolder) -> None:
    """The first run says what it made; a second one makes nothing, and leaves everything as it is."""
    first = await run_alembic(empty_url, note_steps)
    assert "made streams.note for stream note" in first.stderr
    sql = await connect_sql(empty_url)
    try:
        before = await objects_of(sql)
        assert await schemas_of(sql) == {"public", "streams"}
        assert {("relation", "note"), ("relation", "note_history"), ("relation", "change")} <= before.keys()
        await sql.execute("insert into streams.note (group_id, id, data) values ('g', 'a', '{}')")
        second = await run_alembic(empty_url, note_steps)
        assert "made" not in second.stderr
        assert await objects_of(sql) == before
        assert await sql.fetchval("select op from streams.change") == "create"
    finally:
        await sql.close()


async def test_two_at_once_wait_for_each_other(empty_url: str, note_steps: StepsFolder) -> None:
    """Two servers that are deployed together may both migrate: each thing is made once, and neither fails."""
    done = await asyncio.gather(*(run_alembic(empty_url, note_steps) for _ in range(2)))
    assert sorted("made streams.note" in run.stderr for run in done) == [False, True]
    sql = await connect_sql(empty_url)
    assert await sql.fetch("select version_num from streams.alembic_version") == [(HEAD,)]
    await sql.close()


async def test_a_stream_that_is_added_later_gets_its_table(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """While others write, whom it neither waits for nor makes wait; what was there is not touched."""
    before = await objects_of(sql)
    note_steps.write("below/task_stream.py", TASK_STREAM)
    async with sql.transaction():
        await sql.execute("update streams.note set data = '{\"n\": 2}'")
        assert "made streams.task_list for stream taskList" in (await run_alembic(url, note_steps)).stderr
        await sql.execute("insert into streams.task_list (group_id, id, data) values ('g', 'a', '{}')")
    after = await objects_of(sql)
    assert before.items() <= after.items()
    assert {name.partition(".")[0] for kind, name in after.keys() - before.keys() if kind == "relation"} == {
        "task_list",
        "task_list_pkey",
        "task_list_expires_at_idx",
        "task_list_history",
        "_task_list_log",
    }
    assert [row["stream"] for row in await sql.fetch("select stream from streams.change order by seq")] == [
        "note",
        "note",
        "taskList",
    ]


async def test_a_stream_whose_file_is_gone_keeps_its_table(url: str, sql: Sql, steps: StepsFolder) -> None:
    """Nothing is dropped: its items, its history and its triggers are there if the file comes back."""
    before = await objects_of(sql)
    await run_alembic(url, steps)
    assert await objects_of(sql) == before
    assert await sql.fetchval("select data from streams.note") == {"id": "a", "n": 1}
    assert await sql.fetchval("select name from streams.stream") == "note"


async def test_a_changed_schema_is_noted_and_nothing_else(url: str, sql: Sql, steps: StepsFolder) -> None:
    """Items that fit the old schema stay as they are: no row is rewritten, no object changed."""
    before = await objects_of(sql)
    items = await sql.fetch("select xmin::text, * from streams.note")
    declared_at = await sql.fetchval("select declared_at from streams.stream")
    steps.write("note_stream.py", 'config = {"name": "note", "schema": {"type": "object", "description": "it\'s"}}')
    assert "made" not in (await run_alembic(url, steps)).stderr
    assert await objects_of(sql) == before
    assert await sql.fetch("select xmin::text, * from streams.note") == items
    row = await sql.fetchrow("select name, table_name, schema, declared_at from streams.stream")
    assert tuple(row) == ("note", "note", {"type": "object", "description": "it's"}, declared_at)


async def test_questions_change_nothing(empty_url: str, note_steps: StepsFolder) -> None:
    """Asking alembic where it stands, what there is, or for its SQL leaves an empty database empty."""
    for command in (["current"], ["history"], ["upgrade", "head", "--sql"]):
        await run_alembic(empty_url, note_steps, *command)
    sql = await connect_sql(empty_url)
    assert await schemas_of(sql) == {"public"}
    await sql.close()


async def test_asking_where_it_stands_does_not_migrate(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """`alembic current` tells the revision, and makes no table for a stream that has none yet."""
    before = await objects_of(sql)
    note_steps.write("task_stream.py", TASK_STREAM)
    assert f"{HEAD} (head)" in (await run_alembic(url, note_steps, "current")).stdout
    assert await objects_of(sql) == before


async def test_a_downgrade_is_refused_with_what_it_would_cost(url: str, sql: Sql, note_steps: StepsFolder) -> None:
    """The core holds everybody's items: nothing drops it."""
    before = await objects_of(sql)
    with pytest.raises(RuntimeError, match="holds every stream's items and history"):
        await run_alembic(url, note_steps, "downgrade", "base")
    assert await objects_of(sql) == before


async def test_the_sql_of_the_offline_mode_does_the_same(empty_url: str, sql: Sql, steps: StepsFolder) -> None:
    """`alembic upgrade head --sql`, run by psql, makes the same database; online there is nothing left to do."""
    steps.write(
        "note_stream.py", 'config = {"name": "note", "schema": {"description": "it\'s a %s \\\\ note; -- :x $$"}}'
    )
    script = (await run_alembic(empty_url, steps, "upgrade", "head", "--sql")).stdout
    command = [PSQL, "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", empty_url]
    done = await asyncio.to_thread(subprocess.run, command, input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    offline = await connect_sql(empty_url)
    try:
        assert await definitions_of(offline) == await definitions_of(sql)
        schema = await offline.fetchval("select schema from streams.stream")
        assert schema == {"description": "it's a %s \\ note; -- :x $$"}
        assert "made" not in (await run_alembic(empty_url, steps)).stderr
        assert await definitions_of(offline) == await definitions_of(sql)
    finally:
        await offline.close()


def test_a_revision_stands_alone(elsewhere: Path) -> None:
    """Revisions run without the application: what they do can't change with its code."""
    for name in ("versions", "sql", "script.py.mako"):
        source = ROOT / "migrations" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, elsewhere / name)
    (elsewhere / "env.py").write_text(ALEMBIC_ALONE)
    (elsewhere / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s\npath_separator = os\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "alembic", "upgrade", "head", "--sql"],
        cwd=elsewhere, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "create table streams.change" in done.stdout


async def test_a_downgrade_of_the_limits_can_be_taken_back(
    empty_url: str, url: str, sql: Sql, note_steps: StepsFolder
) -> None:
    """To the functions and triggers of before, for items that there are; and up again to those of a new database."""
    await run_alembic(empty_url, note_steps, "upgrade", "0003")
    before = await connect_sql(empty_url)
    await before.execute("select streams.declare('note', 'note', '{\"type\": \"object\"}')")
    new = await definitions_of(sql)
    try:
        assert ("trigger", "streams.note.tidelog_complete") in await definitions_of(before)
        await run_alembic(url, note_steps, "downgrade", "0003")
        assert await definitions_of(sql) == await definitions_of(before)
        await sql.execute("update streams.note set data = '{\"n\": 2}'")
        for database in (url, empty_url):
            await run_alembic(database, note_steps)
        assert await definitions_of(sql) == await definitions_of(before) == new
    finally:
        await before.close()


async def test_a_log_of_the_release_before_is_divided_with_all_that_it_has(
    empty_url: str, note_steps: StepsFolder
) -> None:
    """Numbers, history and rights stay, also of what was adopted then; what was not numbered yet is numbered."""
    await run_alembic(empty_url, note_steps, "upgrade", "0005")
    sql = await connect_sql(empty_url)
    reader = f"tidelog_test_reader_{RUN}"
    try:
        await sql.execute("select streams.declare('note', 'note', '{\"type\": \"object\"}')")
        await sql.execute(f"create role {reader}; grant select on streams.note_history to {reader}")
        for n in range(30):
            await sql.execute("insert into streams.note (group_id, id, data) values ('g', $1, '{}')", f"i{n % 20}{n}")
        await sql.execute(NUMBER_OF_BEFORE)
        await sql.execute(ADOPT_OF_BEFORE)
        await sql.execute("update streams.note set data = '{\"n\": 1}' where id = 'i00'")  # has no number
        before = await sql.fetch(HISTORY_OF_BEFORE)
        assert len(before) == 30
        await run_alembic(empty_url, note_steps)
        assert await sql.fetch(HISTORY_OF_BEFORE) == before
        assert await sql.fetchval(f"select has_table_privilege('{reader}', 'streams.note_history', 'select')")
        async with Log.open(empty_url) as log:
            with sequencing(empty_url):
                xid = await sql.fetchval(
                    "insert into streams.note (group_id, id, data) values ('g', 'new', '{}') "
                    "returning pg_current_xact_id()"
                )
                assert await log.until_numbered(xid) == 32
            assert await sql.fetchval("select op from streams.note_history where position = 31") == "update"
            await log.check()
    finally:
        await sql.execute(f"drop owned by {reader}; drop role {reader}")
        await sql.close()
