"""Keys that are compared by their bytes: a C library upgrade corrupts no index. Tables of before work as they are."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.harness import Server, Sql, StepsFolder, Subscriber, connect_sql, eventually, free_port
from tests.migrations.catalog import definitions_of

COLLATIONS = """
    select attname, attcollation::regcollation::text from pg_attribute
    where attrelid = 'streams.{}'::regclass and attname in ('group_id', 'id') order by attname
"""
BYTES = [("group_id", '"C"'), ("id", '"C"')]
WAITS = "select exists (select from pg_stat_activity where pid = $1 and wait_event = 'PgSleep')"  # after a try
KEYS = ["a", "B", "Z", "ä", "é", "_", "-", "10", "9"]


async def collations(sql: asyncpg.Connection[Any], table: str = "note") -> list[tuple[str, str]]:
    return [tuple(row) for row in await sql.fetch(COLLATIONS.format(table))]


async def as_before(sql: asyncpg.Connection[Any], table: str = "note") -> None:
    """A table that an earlier release made."""
    await sql.execute(
        f'alter table streams.{table} alter group_id type text collate "default", alter id type text collate "default"'
    )


async def test_a_new_table_s_keys_are_compared_by_their_bytes(sql: Sql) -> None:
    """As migrations make it."""
    assert await collations(sql) == BYTES


async def test_keys_of_before_are_converted_once(sql: Sql) -> None:
    """All else of the table stays, and its index is whole."""
    new = await definitions_of(sql)
    await as_before(sql)
    assert await collations(sql) != BYTES
    await sql.execute("insert into streams.note (group_id, id, data) select k, k, '{}' from unnest($1::text[]) k", KEYS)
    assert await sql.fetchval("select streams.convert_keys('note')") is True
    assert await sql.fetchval("select streams.convert_keys('note')") is False
    assert await collations(sql) == BYTES
    assert await definitions_of(sql) == new
    await sql.execute("set enable_seqscan = off")
    for key in KEYS:
        assert await sql.fetchval("select count(*) from streams.note where group_id = $1 and id = $1", key) == 1


async def test_who_uses_the_table_is_waited_for_and_not_ended(url: str, sql: Sql) -> None:
    """Again and again for a moment: whoever comes meanwhile reads and writes."""
    await as_before(sql)
    other, third = await connect_sql(url), await connect_sql(url)
    async with other.transaction():
        await other.execute("select from streams.note")
        converting = asyncio.ensure_future(sql.fetchval("select streams.convert_keys('note')"))
        await eventually(lambda: third.fetchval(WAITS, sql.get_server_pid()))
        await third.execute("insert into streams.note (group_id, id, data) values ('g', 'b', '{}')")
        assert not converting.done()
    assert await converting is True
    assert await collations(sql) == BYTES
    await asyncio.gather(other.close(), third.close())


@pytest.mark.parametrize("is_converted", [True, False])
async def test_items_of_either_kind_come_in_their_order(
    url: str, sql: Sql, note_steps: StepsFolder, is_converted: bool
) -> None:
    """To a server and its subscribers, where all were created at once; a trigger's loss is made good as well."""
    if not is_converted:
        await as_before(sql)
    await sql.execute("alter table streams.note disable trigger tidelog_record")
    await sql.execute(
        "insert into streams.note (group_id, id, data, created_at) select 'order', k, '{}', '2026-01-01' "
        "from unnest($1::text[]) k",
        KEYS,
    )
    assert "9 items as created" in await sql.fetchval("select streams.declare('note', 'note', '{}')")
    listed = [row["id"] for row in await sql.fetch("select id from streams.note where group_id = 'order' order by id")]
    server = Server(url, note_steps.path, {}, free_port())
    try:
        await server.wait_until_ready()
        async with Subscriber.connect(server) as subscriber:
            await subscriber.join("note", "order")
            sync = await subscriber.next()
            shown = [item["id"] for item in sync["event"]["data"]]
    finally:
        await server.stop()
    assert shown == listed
    if is_converted:
        assert shown == sorted(KEYS, key=str.encode)
