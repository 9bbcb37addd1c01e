"""Retention: whole commits go, the oldest first, and never one that somebody needs."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError

from tests.integration.sequencer_fixtures import WAIT_SECONDS, Log, connected, sequencing
from tidelog.numbering import housekeeper
from tidelog.settings import Settings
from tidelog.store.consumers import CONSUME
from tidelog.store.engine import Database
from tidelog.store.log import Numbering
from tidelog.store.partitions import make_room
from tidelog.store.retention import Retention, read_floor, remove_commits

NO_AGE = timedelta(0)
HOUR = timedelta(hours=1)


async def number_commits(log: Log, connection: asyncpg.Connection[Any], count: int) -> None:
    """`count` commits of two changes each, numbered in one batch."""
    numbering = await Numbering.load(connection)
    for i in range(count):
        await log.write(f"{numbering.number + i}", 2)
    assert await numbering.advance(connection) == count


async def set_age(log: Log, age: timedelta, up_to: int) -> None:
    await log.writer.execute("update streams.commit set at = at - $1::interval where number <= $2", age, up_to)


async def history(log: Log) -> list[tuple[int, str]]:
    rows = await log.observer.fetch("select position, id from streams.chat_message_history order by position, seq")
    return [(row["position"], row["id"]) for row in rows]


async def test_old_commits_go_whole_and_in_order(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """In batches; the history view loses them, the tables keep their items, and the floor says how far."""
    await number_commits(log, connection, 10)
    await set_age(log, HOUR, 7)
    before = await history(log)
    assert await read_floor(connection) == 0
    floor = 0
    for removed_up_to in (3, 6, 7, 7):
        floor = (await remove_commits(connection, floor, older_than=HOUR / 2, commits_max=3)).floor
        assert floor == removed_up_to == await read_floor(connection)
        assert await history(log) == [row for row in before if row[0] > floor]
    assert await log.observer.fetchval("select count(*) from streams.change") == 2 * 3
    assert await log.observer.fetchval("select count(*) from streams.chat_message") == 2 * 10


async def test_the_newest_commit_stays(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """Numbering goes on from it, and never gives a number again."""
    await number_commits(log, connection, 5)
    await remove_commits(connection, 0, older_than=NO_AGE, commits_max=100)
    assert await log.commits() == [(5, (await log.commits())[0][1])]
    assert await read_floor(connection) == 4
    await number_commits(log, connection, 1)
    assert [number for number, _ in await log.commits()] == [5, 6]


async def test_a_consumer_does_not_walk_over_what_was_removed(
    log: Log, connection: asyncpg.Connection[Any], database_url: str
) -> None:
    """Also where an old transaction keeps that from being vacuumed: it looks at as few pages as ever."""
    await log.writer.execute(
        "insert into streams.commit (number, xid, last_seq, at) "
        "select n, n::text::xid8, n, now() from generate_series(1, 20000) n"
    )
    async with connected(database_url) as old:
        await old.execute("begin isolation level repeatable read; select count(*) from streams.commit")
        await log.writer.execute("delete from streams.commit where number <= 19990")
        await connection.execute(f"prepare look (int8, text[], text[], int8, int8, xid8) as {CONSUME}")
        for position, floor in ((0, 19990), (19989, 19990), (19990, 19990), (19995, 19995), (20000, 20000)):
            values = f"({position}, null, null, 100, 10, '0')"
            (plan,) = json.loads(
                await connection.fetchval(f"explain (analyze, buffers, format json) execute look {values}")
            )
            assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 500, plan
            assert (await connection.fetchrow(f"execute look {values}"))["floor"] == floor


async def test_removed_commits_are_vacuumed_when_they_are_a_hundredth(connection: asyncpg.Connection[Any]) -> None:
    """By Postgres itself: whoever plans a query of a history walks over those that are not."""
    options = await connection.fetchval("select reloptions from pg_class where oid = 'streams.commit'::regclass")
    assert "autovacuum_vacuum_scale_factor=0.01" in options


async def test_what_a_consumer_has_still_to_read_stays(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """The slowest one counts, until it is removed."""
    await number_commits(log, connection, 10)
    await log.writer.execute(
        "insert into streams.consumer (name, position, epoch) "
        "select name, position, gen_random_uuid() from (values ('slow', 4), ('fast', 9)) c (name, position)"
    )
    removed = await remove_commits(connection, 0, older_than=NO_AGE, commits_max=100)
    assert (removed.commits, removed.floor) == (4, 4)
    await log.writer.execute("delete from streams.consumer where name = 'slow'")
    removed = await remove_commits(connection, removed.floor, older_than=NO_AGE, commits_max=100)
    assert (removed.commits, removed.floor) == (5, 9)


async def test_events_of_removed_commits_go_too(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """They are found by their commit; without it they would stay for ever."""
    numbering = await Numbering.load(connection)
    for _ in range(3):
        await log.writer.execute("select streams.send('chatMessage', 'g', null, 'typing', '{}')")
    assert await numbering.advance(connection) == 3
    await remove_commits(connection, 0, older_than=NO_AGE, commits_max=100)
    assert await log.observer.fetchval("select count(*) from streams.event") == 1


@pytest.mark.parametrize("removed", range(9))
async def test_the_floor_is_found_wherever_it_is(log: Log, connection: asyncpg.Connection[Any], removed: int) -> None:
    """By halving, so it is tried at every place."""
    await number_commits(log, connection, 9)
    await remove_commits(connection, 0, older_than=NO_AGE, commits_max=removed)
    assert await read_floor(connection) == removed
    assert await log.observer.fetchval("select min(number) - 1 from streams.commit") == removed


async def test_nothing_is_removed_of_an_empty_log(connection: asyncpg.Connection[Any]) -> None:
    """The floor of a log without commits is 0."""
    assert await read_floor(connection) == 0
    assert (await remove_commits(connection, 0, older_than=NO_AGE, commits_max=100)).floor == 0


async def test_the_sequencer_keeps_house(log: Log, database_url: str, connection: asyncpg.Connection[Any]) -> None:
    """With a retention the old goes by itself, more than a batch of it, while numbering goes on."""
    await number_commits(log, connection, 1)
    await log.writer.execute(
        "insert into streams.commit (number, xid, last_seq, at) "
        "select n, (n + 9000000000)::text::xid8, 0, now() - interval '2 hours' from generate_series(2, 2500) n"
    )
    await set_age(log, 2 * HOUR, 1)
    await log.writer.execute(
        "insert into streams.commit (number, xid, last_seq, at, snapshot) "
        "values (2501, '9100000000', 0, now(), pg_current_snapshot())"
    )
    with sequencing(database_url, retention=HOUR):
        async with asyncio.timeout(WAIT_SECONDS):
            while await read_floor(connection) < 2500:
                pass  # each look is a round trip to the server
        assert await log.write_numbered("new") == 2502
    assert [number for number, _ in await log.commits()] == [2501, 2502]


def test_partitions_that_can_not_be_dropped_for_long_are_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Their changes are past retention, and stored. When it went again, the next time is another one."""
    monkeypatch.setattr(housekeeper, "UNDROPPED_SECONDS", 0)
    one = housekeeper.Housekeeper(Database.connector("postgresql://x@/x"), Retention(NO_AGE))
    for is_done, told in ((False, 1), (False, 1), (True, 1), (False, 2)):
        one._note_drop(is_done)
        assert caplog.text.count("past retention are still stored") == told


async def test_without_a_retention_all_is_kept(
    log: Log, database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    """However old it is."""
    await number_commits(log, connection, 3)
    await set_age(log, 1000 * HOUR, 2)
    async with connected(database_url) as observer:
        with sequencing(database_url):
            tidied = (
                "select count(*) from pg_stat_activity "
                "where datname = current_database() and application_name = 'tidelog housekeeper' and query <> ''"
            )
            async with asyncio.timeout(WAIT_SECONDS):
                while not await observer.fetchval(tidied):
                    pass  # each look is a round trip to the server
            assert await log.write_numbered("new") == 4
    assert await read_floor(connection) == 0


async def test_a_long_removal_keeps_nothing_else_waiting_and_hurries_the_longer_it_takes(
    log: Log, connection: asyncpg.Connection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rounds, each of them one step here: room is made in each, and each pauses half as long, down to the least."""
    await number_commits(log, connection, 12)
    rooms, pauses = [], []

    async def make_room_noted(*arguments: Any) -> int | None:
        rooms.append(await make_room(*arguments))
        return rooms[-1]

    async def pause_noted(began: float, pause: float) -> None:
        pauses.append(pause)

    for name, value in {
        "ROUND_SECONDS": 0,
        "HURRY_SECONDS": 0,
        "COMMITS_AT_ONCE": 2,
        "PAUSE_MIN_SECONDS": 0.004,
    }.items():
        monkeypatch.setattr(housekeeper, name, value)
    monkeypatch.setattr(housekeeper, "make_room", make_room_noted)
    monkeypatch.setattr(housekeeper, "_pause_since", pause_noted)
    await housekeeper.Housekeeper(Database.connector(database_url), Retention(NO_AGE))._tidy(connection)
    assert await read_floor(connection) == 11  # all but the newest
    assert len(rooms) == 6
    assert pauses[1::2] == [0.025, 0.0125, 0.00625, 0.004, 0.004, 0.004]  # the others are of events


def test_a_retention_that_keeps_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset means all; 0 would mean none."""
    monkeypatch.setenv("TIDELOG_RETENTION_SECONDS", "0")
    with pytest.raises(ValidationError, match="retention_seconds"):
        Settings()
    monkeypatch.setenv("TIDELOG_RETENTION_SECONDS", "3600")
    assert Settings().retention == HOUR
    monkeypatch.delenv("TIDELOG_RETENTION_SECONDS")
    assert Settings().retention is None
