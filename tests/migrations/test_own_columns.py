"""What people add to a stream's table: columns, constraints, row-level security. What works, and what is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

import tidelog
from tests.harness import RUN, Sql, StepsFolder
from tests.migrations.test_refusals import owner_url, run_alembic, serve  # noqa: F401 - a fixture
from tidelog.errors import GrantMissingError
from tidelog.store.stream_changes import drop_stream
from tidelog.store.stream_tables import EXAMINE_STREAMS

OPS = "select op, data from streams.change order by seq"


async def troubles(sql: asyncpg.Connection[Any]) -> list[tuple[str, str, str]]:
    """What a server of this connection's role finds at its start."""
    return [tuple(row)[2:] for row in await sql.fetch(EXAMINE_STREAMS, ["note"], ["note"])]


@pytest.fixture
async def streams(url: str) -> AsyncIterator[Any]:
    async with tidelog.open(url) as streams:
        yield streams


async def test_columns_of_one_s_own_live_beside_the_item(sql: Sql, streams: Any) -> None:
    """With a default, or empty. What is written to them alone is no change of the item: it is not logged, nor sent."""
    await sql.execute("alter table streams.note add column seen timestamptz, add column kind text not null default 'x'")
    assert await troubles(sql) == []
    await streams.note.set("g", "b", {"n": 1})
    await sql.execute("update streams.note set seen = now(), kind = 'y' where id = 'b'")
    assert len(await sql.fetch(OPS)) == 2
    row = await sql.fetchrow("select version, kind, seen is null as is_unseen from streams.note where id = 'b'")
    assert tuple(row) == (1, "y", False)
    await streams.note.set("g", "b", {"n": 2})
    assert await sql.fetchval("select kind from streams.note where id = 'b'") == "y"
    assert await sql.fetchval("select data from streams.change order by seq desc limit 1") == {"id": "b", "n": 2}


async def test_a_column_is_generated_from_what_is_stored(sql: Sql, streams: Any) -> None:
    """It sees the item as the triggers have left it, and can have an index, as can an item's field itself."""
    await sql.execute(
        "alter table streams.note add column own_id text generated always as (data ->> 'id') stored, "
        "add column n int generated always as ((data ->> 'n')::int) stored"
    )
    await sql.execute("create unique index note_n on streams.note (n)")
    assert await troubles(sql) == []
    await streams.note.set("g", "b", {"n": 2})
    assert [tuple(row) for row in await sql.fetch("select own_id, n from streams.note order by id")] == [
        ("a", 1),
        ("b", 2),
    ]


async def test_what_a_constraint_refuses_is_in_no_log(sql: Sql, streams: Any) -> None:
    """The writer gets Postgres's error, and nothing of its transaction is stored: a unique key beside ours, a check."""
    await sql.execute("create unique index note_n on streams.note ((data ->> 'n'))")
    await sql.execute("alter table streams.note add check (data ->> 'n' <> 'bad')")
    before = await sql.fetch(OPS)
    with pytest.raises(asyncpg.UniqueViolationError, match="note_n"):
        await streams.note.set("g", "b", {"n": 1})
    with pytest.raises(asyncpg.CheckViolationError, match="note_data_check"):
        async with streams.transaction() as together:
            await together.note.set("g", "b", {"n": 2})
            await together.note.set("g", "c", {"n": "bad"})
    assert await sql.fetch(OPS) == before
    assert await sql.fetchval("select count(*) from streams.note") == 1


async def test_a_column_that_steps_can_t_fill_is_told(sql: Sql, streams: Any) -> None:
    """At the start, with the statement; programs that know it may go on."""
    await sql.execute("delete from streams.note")
    await sql.execute("alter table streams.note add column owner text not null")
    ((severity, trouble, remedy),) = await troubles(sql)
    assert severity == "warn" and "column owner of streams.note must have a value" in trouble
    with pytest.raises(asyncpg.NotNullViolationError, match="owner"):
        await streams.note.set("g", "b", {})
    await sql.execute("insert into streams.note (group_id, id, data, owner) values ('g', 'b', '{}', 'ada')")
    await sql.execute(remedy.partition(";")[0].strip("`").replace("...", "'nobody'"))
    assert await troubles(sql) == []
    assert await streams.note.set("g", "c", {}) == {"id": "c"}


@pytest.mark.parametrize("name", ["version", "created_at"])
async def test_a_column_named_like_ours_is_refused_by_postgres(sql: Sql, name: str) -> None:
    """There is one of the name already."""
    with pytest.raises(asyncpg.DuplicateColumnError):
        await sql.execute(f"alter table streams.note add column {name} text")


async def test_row_security_is_for_who_writes_sql(sql: Sql, streams: Any) -> None:
    """A superuser, and a table's owner without FORCE, have all items, as servers must. The log is not restricted."""
    reader = f"tidelog_test_reader_{RUN}"
    await sql.execute(f"create role {reader}; grant usage on schema streams to {reader}")
    try:
        await sql.execute(f"grant select on streams.note, streams.note_history to {reader}")
        await sql.execute("alter table streams.note enable row level security, force row level security")
        await sql.execute(f"create policy own on streams.note to {reader} using (group_id = 'mine')")
        await sql.execute("insert into streams.note (group_id, id, data) values ('mine', 'm', '{}')")
        assert await troubles(sql) == []
        assert await streams.note.get_group("g") == [{"id": "a", "n": 1}]
        await sql.execute(f"set role {reader}")
        assert [row["id"] for row in await sql.fetch("select id from streams.note")] == ["m"]
        await sql.execute("reset role")
        assert await sql.fetchval("select count(*) from streams.change") == 2
    finally:
        await sql.execute(f"reset role; drop policy if exists own on streams.note; drop owned by {reader}")
        await sql.execute(f"drop role {reader}")


async def test_row_security_that_hides_items_from_the_server_keeps_it_from_starting(
    owner_url: str,
    note_steps: StepsFolder,
) -> None:
    """With the policy that shows them to it; else snapshots would lack what the feed has. A drop is no half of one."""
    await run_alembic(owner_url, note_steps)
    owner = await asyncpg.connect(owner_url)
    await owner.execute("alter table streams.note enable row level security")
    assert await troubles(owner) == []  # it is its own
    await owner.execute("alter table streams.note force row level security")
    log = await serve(owner_url, note_steps.path)
    assert "row-level security of streams.note may hide items from the role tidelog_test_owner" in log
    with pytest.raises(GrantMissingError, match="row-level security"):
        await drop_stream(owner, "note")
    ((severity, _, remedy),) = await troubles(owner)
    assert severity == "refuse"
    await owner.execute(remedy.split("`")[1])
    assert await troubles(owner) == []
    await owner.execute("insert into streams.note (group_id, id, data) values ('g', 'a', '{}')")
    await owner.execute("create policy less on streams.note as restrictive using (group_id <> 'secret')")
    assert [severity for severity, _, _ in await troubles(owner)] == ["refuse"]
    await owner.close()
