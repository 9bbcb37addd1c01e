"""Numbering: every transaction once, in the order of its last write, whatever its size, and at what cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.integration.sequencer_fixtures import Log, backend_of_sequencer, connected, sequencing
from tidelog.store.log import FEED_SETTINGS, FEW_ROWS, NUMBER_FEW, NUMBER_MANY, Numbering
from tidelog.store.window import numbering_window


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection with the feed's settings, for a sequencer's statements one by one."""
    async with connected(database_url, **FEED_SETTINGS) as connection:
        yield connection


async def pages_read(connection: asyncpg.Connection[Any], numbering: Numbering, *statements: str) -> int:
    """How many pages numbering statements look at; nothing is numbered.

    The least of several times: what others make and drop can have this session read its catalogs anew.
    """
    window = await numbering_window(connection, numbering.snapshot)
    return sum(
        [
            min([await _pages_read_once(connection, numbering, statement) for _ in range(3)])
            for statement in map(window.apply, statements)
        ]
    )


async def _pages_read_once(connection: asyncpg.Connection[Any], numbering: Numbering, statement: str) -> int:
    arguments = f"'{numbering.snapshot}', {numbering.number}, '{numbering.at.isoformat()}', {FEW_ROWS}, 0, true"
    async with rolled_back(connection):
        await connection.execute(f"prepare number_commits (text, int8, timestamptz, int8, int8, bool) as {statement}")
        plan = await connection.fetchval(
            f"explain (analyze, buffers, format json) execute number_commits ({arguments})"
        )
        await connection.execute("deallocate number_commits")
    top = json.loads(plan)[0]["Plan"]
    return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])


async def leave_statistics_alone(log: Log) -> None:
    """Plans are to be compared: an ANALYZE or VACUUM that came between would change them, or the pages."""
    partitions = [
        row["partition"] for row in await log.writer.fetch("select partition::text from streams.partitions()")
    ]
    for table in (*partitions, "streams.event", "streams.commit"):
        await log.writer.execute(f"alter table {table} set (autovacuum_enabled = off)")


@contextlib.asynccontextmanager
async def rolled_back(connection: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("size", [FEW_ROWS - 1, FEW_ROWS, FEW_ROWS + 1])
async def test_transactions_of_all_sizes_are_numbered_once_in_order(
    log: Log, connection: asyncpg.Connection[Any], size: int
) -> None:
    """Where the reading row by row ends, nothing is left out and nothing is numbered twice."""
    numbering = await Numbering.load(connection)
    written = [await log.write("first"), await log.write("large", size)]
    for i in range(3):
        written.append(await log.write(f"then{i}"))
    written.append(
        await log.writer.fetchval("select pg_current_xact_id() from streams.send('chatMessage', 'g', null, 't', '{}')")
    )
    assert await numbering.advance(connection) == len(written)
    assert await log.commits() == list(enumerate(written, start=1))
    assert await connection.fetchval(
        "select bool_and(n.last_seq = (select max(seq) from (select seq, xid from streams.change union all "
        "select seq, xid from streams.event) w where w.xid = n.xid)) from streams.commit n"
    )
    assert await numbering.advance(connection) == 0


async def test_one_that_was_in_progress_is_numbered_when_it_ends(
    log: Log, database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    """Long ones don't hold up others, and come in the order of their last write; the rolled back never."""
    numbering = await Numbering.load(connection)
    async with connected(database_url) as long, connected(database_url) as doomed:
        await long.execute("begin")
        await doomed.execute("begin")
        began_first = await log.write("long", connection=long)
        await log.write("doomed", 100, connection=doomed)
        overtaking = await log.write("short")
        assert await numbering.advance(connection) == 1
        await doomed.execute("rollback")
        between = await log.write("between")
        await long.execute("savepoint s; delete from streams.chat_message where id = 'long/1'; rollback to s")
        await log.write("long again", connection=long)
        await long.execute("commit")
        assert await numbering.advance(connection) == 2
    assert await log.commits() == [(1, overtaking), (2, between), (3, began_first)]
    await log.check()


async def test_a_stale_state_numbers_nothing(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """A sequencer that slept through another's work fails on the unique keys, and finds its place again."""
    stale = await Numbering.load(connection)
    await log.write("one")
    await (await Numbering.load(connection)).advance(connection)
    await log.write("two")
    with pytest.raises(asyncpg.UniqueViolationError):
        await stale.advance(connection)
    assert await (await Numbering.load(connection)).advance(connection) == 1
    await log.check()


async def test_an_open_bulk_load_is_not_looked_at_twice(
    log: Log, database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    """Once it was, its rows cost nothing while nothing happens, when others commit, nor when it is rolled back."""
    await leave_statistics_alone(log)
    numbering = await Numbering.load(connection)
    async with connected(database_url) as loading:
        await loading.execute("begin")
        await log.write("load", 60_000, connection=loading)
        loaded = "select sum(pg_relation_size(partition)) / 8192 from streams.partitions()"
        assert await numbering.advance(connection) == 0
        pages = [await pages_read(connection, numbering, NUMBER_FEW)]
        await log.write("one that began later")
        assert await numbering.advance(connection) == 1
        await log.write("another")
        pages.append(await pages_read(connection, numbering, NUMBER_FEW))
        await loading.execute("rollback")
        pages.append(await pages_read(connection, numbering, NUMBER_FEW))
    assert max(pages) < await log.observer.fetchval(loaded) / 10


async def test_a_large_commit_costs_no_more_than_a_part_of_it(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """What the sequencer reads of a commit is bounded: four times the rows are the same work."""
    await leave_statistics_alone(log)
    numbering = await Numbering.load(connection)
    await log.write("large", 2 * FEW_ROWS)
    large = await pages_read(connection, numbering, NUMBER_FEW, NUMBER_MANY)
    await numbering.advance(connection)
    await log.write("huge", 8 * FEW_ROWS)
    huge = await pages_read(connection, numbering, NUMBER_FEW, NUMBER_MANY)
    assert huge < 1.2 * large


@pytest.mark.parametrize("few_rows", [FEW_ROWS, 3])
async def test_no_change_of_an_item_is_out_of_order(
    log: Log, database_url: str, monkeypatch: pytest.MonkeyPatch, seed: int, few_rows: int
) -> None:
    """Six random writers on five items, and a sequencer that is killed again and again: each change once, in order."""
    monkeypatch.setattr("tidelog.store.log.FEW_ROWS", few_rows)  # with 3 nearly all batches are numbered by jumps
    with sequencing(database_url):
        writers = [asyncio.ensure_future(write_at_random(database_url, seed + n)) for n in range(6)]
        while not all(writer.done() for writer in writers):
            await asyncio.wait(writers, timeout=0.1)
            await log.observer.execute(f"select pg_terminate_backend({await backend_of_sequencer(log.observer)})")
        await asyncio.gather(*writers)
        await log.write_numbered("last")
    await log.check()
    changes = await log.observer.fetch(
        "select id, op, version, seq from streams.chat_message_history order by position, seq"
    )
    versions: dict[str, int] = {}
    for change in changes:
        expected = 1 if change["op"] == "create" else versions[change["id"]] + (change["op"] == "update")
        assert change["version"] == expected, change
        versions[change["id"]] = change["version"]
        if change["op"] == "delete":
            del versions[change["id"]]
    items = await log.observer.fetch("select id, version from streams.chat_message")
    assert versions == {item["id"]: item["version"] for item in items}
    assert len(changes) == await log.observer.fetchval("select count(*) from streams.change")


async def write_at_random(url: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    async with connected(url) as connection:
        for _ in range(100):
            with contextlib.suppress(asyncpg.DeadlockDetectedError):
                async with connection.transaction():
                    for _ in range(chance.choice([1, 1, 2, 5])):
                        await write_one(connection, chance)
                    if chance.random() < 0.1:
                        await connection.execute("rollback; begin")


async def write_one(connection: asyncpg.Connection[Any], chance: random.Random) -> None:
    """Set or delete an item, or send an event; one time in five in a savepoint that may be rolled back."""
    item = chance.choice("abcde")
    sql = chance.choice(
        [
            f"insert into streams.chat_message (group_id, id, data) values ('g', '{item}', "
            f"'{{\"n\": {chance.random()}}}') on conflict (group_id, id) do update set data = excluded.data",
            f"delete from streams.chat_message where group_id = 'g' and id = '{item}'",
            "select streams.send('chatMessage', 'g', null, 'typing', '{}')",
        ]
    )
    if chance.random() < 0.2:
        end = chance.choice(["release savepoint s", "rollback to savepoint s"])
        sql = f"savepoint s; {sql}; {end}"
    await connection.execute(sql)


@pytest.mark.slow
async def test_a_million_changes_delay_nobody(log: Log, database_url: str) -> None:
    """While a million rows are being loaded, and when they are committed, others get their numbers."""
    with sequencing(database_url):
        async with connected(database_url) as loading:
            await loading.execute("begin")
            first = await log.write_numbered("before")
            load = await log.write("load", 1_000_000, connection=loading)
            assert await log.write_numbered("during") == first + 1
            await loading.execute("commit")
            after = await log.write_numbered("after")
            assert await log.until_numbered(load) == first + 2
            assert after == first + 3
    await log.check()
