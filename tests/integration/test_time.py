"""The log's time: never before its epoch began, never far ahead of the clock, and no part of the order."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.conftest import StartServer
from tests.harness import Databases, Server, Subscriber, free_port
from tests.integration.sequencer_fixtures import Log, connected, sequencing
from tidelog.store.epoch import begin_epoch
from tidelog.store.log import WENT_BACK, Numbering, read_head
from tidelog.store.retention import forget_events, read_floor, remove_commits

AHEAD = timedelta(days=30)
SOME_SECONDS = timedelta(seconds=30)
MINUTE = timedelta(minutes=1)


async def number(log: Log, connection: asyncpg.Connection[Any], *ids: str) -> None:
    """Each in a commit and a batch of its own."""
    numbering = await Numbering.load(connection)
    for id in ids:
        await log.write(id)
        await numbering.advance(connection)


async def date_ahead(log: Log, *numbers: int, by: timedelta = AHEAD) -> None:
    """As if the clock had been ahead when these were numbered."""
    await log.writer.execute("update streams.commit set at = at + $1::interval where number = any ($2)", by, numbers)


async def times(log: Log) -> list[datetime]:
    return [row["at"] for row in await log.observer.fetch("select at from streams.commit order by number")]


# A clock that was ahead.


async def test_one_commit_from_the_future_dates_no_other(
    log: Log, connection: asyncpg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The next ones have the clock's time; it is logged once, with the statement that dates the one anew."""
    await number(log, connection, "a", "b")
    await date_ahead(log, 2)
    with caplog.at_level(logging.WARNING, "tidelog.sequencer"):
        await number(log, connection, "c", "d", "e")
    _, future, *after = await times(log)
    assert after == sorted(set(after))
    assert after[-1] < await log.observer.fetchval("select clock_timestamp()") < future
    (told,) = [record.getMessage() for record in caplog.records if record.msg == WENT_BACK]
    assert told.startswith("the clock was ahead: commit 2 is dated ")
    await log.writer.execute(told.partition("anew what was dated ahead: ")[2])
    assert max(await times(log)) <= await log.observer.fetchval("select clock_timestamp()")
    history = await log.observer.fetch("select id from streams.chat_message_history order by position, seq")
    assert [row["id"] for row in history] == ["a/1", "b/1", "c/1", "d/1", "e/1"]


async def test_a_clock_that_is_set_back_a_little_stops_no_time(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """Within some seconds the log's time runs on, ahead of the clock, so that it never falls."""
    await number(log, connection, "a")
    await date_ahead(log, 1, by=SOME_SECONDS - timedelta(seconds=5))
    await number(log, connection, "b", "c")
    first, *others = await times(log)
    assert others == [first + n * timedelta(microseconds=10) for n in (1, 2)]


async def test_events_of_a_commit_from_the_future_are_removed(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """Not after 30 days; those of the present stay."""
    numbering = await Numbering.load(connection)
    for type in ("ahead", "present"):
        await log.writer.execute("select streams.send('chatMessage', 'g', null, $1, '{}')", type)
        await numbering.advance(connection)
    await date_ahead(log, 1)
    await forget_events(connection, older_than=MINUTE, rows_max=10)
    assert [row["type"] for row in await log.observer.fetch("select type from streams.event")] == ["present"]


async def test_retention_leaves_no_gap_where_a_commit_is_from_the_future(
    log: Log, connection: asyncpg.Connection[Any]
) -> None:
    """It goes with the next older one: commits are removed from the lowest on, and the floor stays true."""
    await number(log, connection, *"abcdef")
    await log.writer.execute("update streams.commit set at = at - $1::interval where number <= 4", MINUTE)
    await date_ahead(log, 2, 3)
    removed = await remove_commits(connection, 0, older_than=MINUTE / 2, commits_max=3)
    assert (removed.commits, removed.floor) == (1, 1)
    removed = await remove_commits(connection, 1, older_than=MINUTE / 2, commits_max=3)
    assert (removed.commits, removed.floor) == (3, 4)
    assert await read_floor(connection) == 4
    assert [number for number, _ in await log.commits()] == [5, 6]


# An epoch's beginning.


async def test_no_time_is_before_the_epoch_began(log: Log, connection: asyncpg.Connection[Any]) -> None:
    """That of the head, of an empty log or not, and that of the next commit."""
    for count in (0, 1):
        await begin_epoch(connection, count)
        began = await log.observer.fetchval("select max(began_at) from streams.epoch")
        head = await read_head(connection, None, timeout_seconds=60)
        assert head.at_ms == head.began_at_ms == pytest.approx(began.timestamp() * 1000, abs=0.001)
        await number(log, connection, f"{count}")
        assert (await times(log))[-1] > began


async def test_an_epoch_that_began_in_the_future_dates_nothing_there(
    log: Log, connection: asyncpg.Connection[Any]
) -> None:
    """The clock was ahead when it began: it counts as far as the log may be ahead."""
    await log.writer.execute("update streams.epoch set began_at = began_at + $1::interval", AHEAD)
    now = datetime.now(UTC)
    assert (await read_head(connection, None, timeout_seconds=60)).at_ms < (now + 2 * MINUTE).timestamp() * 1000
    await number(log, connection, "a")
    assert (await times(log))[-1] < now + 2 * MINUTE


async def test_a_sync_of_a_wiped_database_is_newer_than_all_that_was_before(
    databases: Databases, template_database: str, database_url: str, start_server: StartServer
) -> None:
    """A tab that was open all the while takes it, and every message after it: on a fresh log, and on a restored one."""
    port = free_port()
    for meanwhile in ("wiped", "restored"):
        server = await start_server(port=port)
        last = await _last_time_of_a_tab(server, database_url)
        await server.stop()
        new_url = await databases.create(template=template_database)
        if meanwhile == "restored":
            async with Log.open(new_url) as log:
                with sequencing(new_url):
                    await log.write_numbered("restored")
                await log.writer.execute("update streams.commit set at = at - interval '1 hour'")
                await log.writer.execute("update streams.epoch set began_at = began_at - interval '1 hour'")
            copy = await databases.create(template=str(make_url(new_url).database))
            await databases.drop(new_url)
            new_url = copy
        await databases.replace(database_url, new_url)
        server = await start_server(port=port)
        async with connected(database_url) as sql, Subscriber.connect(server) as tab:
            await tab.join("chatMessage", "g")
            sync = await tab.next()
            assert sync["event"]["type"] == "sync"
            assert sync["timestamp"] > last, meanwhile
            await sql.execute("insert into streams.chat_message (group_id, id, data) values ('g', 'new', '{}')")
            assert (await tab.next())["timestamp"] > sync["timestamp"]
            await sql.execute("delete from streams.chat_message")
        await server.stop()


async def _last_time_of_a_tab(server: Server, url: str) -> float:
    async with connected(url) as sql, Subscriber.connect(server) as tab:
        view = await tab.view("chatMessage", "g")
        await sql.execute("insert into streams.chat_message (group_id, id, data) values ('g', 'old', '{}')")
        await tab.until_mark(sql, view)
        assert "old" in view.items
        return float(view.frames[-1]["timestamp"])
