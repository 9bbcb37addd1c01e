"""A session that listens and takes nothing fills the queue of NOTIFYs: writes are stored, numbered and told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.harness import Databases, eventually, migrate
from tests.integration.restore_fixtures import cluster
from tests.integration.sequencer_fixtures import connected, sequencing
from tests.integration.test_forged_notify import live
from tests.integration.test_rejoin import Feed, write
from tests.integration.test_sequencer_trouble import IS_ASLEEP, restart
from tidelog.store.failure import is_conflict, is_passing
from tidelog.store.log import FEED_SETTINGS, Numbering

PAGES = 64  # the fewest that Postgres takes; the usual 8 GB would take minutes to fill
FILL = "select count(pg_notify('flood', repeat('x', 7900) || i)) from generate_series(1, $1::int) i"  # a page each
USAGE = "select pg_notification_queue_usage()"


@pytest.fixture(scope="module")
def small_queue() -> Iterator[Databases]:
    """A cluster of its own: the queue is the whole server's, and its size one of its settings."""
    with cluster() as databases:
        yield databases


@pytest.fixture(scope="module")
async def migrated(small_queue: Databases) -> str:
    url = await small_queue.create()
    await asyncio.to_thread(migrate, url)
    async with connected(url) as sql:
        await sql.execute(f"alter system set max_notify_queue_pages = {PAGES}")
    await restart(small_queue, "fast")
    return cast(str, make_url(url).database)


@pytest.fixture
async def url(small_queue: Databases, migrated: str) -> AsyncIterator[str]:
    url = await small_queue.create(template=migrated)
    yield url
    await small_queue.drop(url)


class Hog:
    """A session that listens and takes nothing. `let_go` ends it."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self.pid = connection.get_server_pid()

    def let_go(self) -> None:
        self._connection.terminate()

    async def take_nothing(self, how: str) -> Hog:
        await self._connection.add_listener("flood", lambda *_: None)
        if how == "reads nothing":
            self._connection._transport.pause_reading()  # type: ignore[attr-defined]
        else:
            await self._connection.execute("begin; select 1")
        return self


OpenHog = Callable[..., Any]


@pytest.fixture
async def open_hog(url: str, small_queue: Databases) -> AsyncIterator[OpenHog]:
    async with AsyncExitStack() as stack:

        async def open(how: str = "in a transaction") -> Hog:
            at = small_queue.server_url if how == "in another database" else url
            return await Hog(await stack.enter_async_context(connected(at))).take_nothing(how)

        yield open


async def fill(sql: asyncpg.Connection[Any], up_to: float) -> None:
    while await sql.fetchval(USAGE) < up_to:
        await sql.execute(FILL, 4)


async def fill_up(sql: asyncpg.Connection[Any]) -> None:
    with pytest.raises(asyncpg.ProgramLimitExceededError, match="NOTIFY queue"):
        while True:
            await sql.execute(FILL, 1)


@pytest.mark.parametrize("how", ["in a transaction", "in another database", "reads nothing"])
async def test_a_queue_that_fills_refuses_no_write(
    url: str, open_hog: OpenHog, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The sequencer stays awake, so that nobody rings; readers of other processes poll; all is as before afterwards."""
    async with connected(url) as sql, connected(url) as writer:
        with sequencing(url):
            async with Feed.on(url) as feed:
                person = await live(feed)
                await write(writer, "before")
                await person.until_told("before")
                hog = await open_hog(how)

                async def is_noticed() -> str | None:
                    await fill(sql, 0.2)  # again: the hog's system takes some for it
                    return feed.reader.watch.notify_queue

                await eventually(is_noticed)
                await eventually(lambda: is_awake(sql))
                await fill_up(sql)
                for number in range(20):
                    await write(writer, f"{number}")
                await person.until_told("19")
                assert f"pid {hog.pid}" in caplog.text
                assert (feed.reader.trouble, feed.reader.watch.numbering) == (None, None)
                hog.let_go()
                await eventually(lambda: feed.reader.watch.notify_queue is None)
                await eventually(lambda: sql.fetchval(IS_ASLEEP))
                await write(writer, "after")
                await person.until_told("after")


async def is_awake(sql: asyncpg.Connection[Any]) -> bool:
    return not await sql.fetchval(IS_ASLEEP)


async def test_a_feed_begins_while_the_queue_is_full(url: str, open_hog: OpenHog) -> None:
    """Also one of a new epoch, of which readers are told by NOTIFY."""
    async with connected(url) as sql, connected(url) as writer:
        await sql.execute("delete from streams.epoch")
        hog = await open_hog()
        await fill_up(sql)
        with sequencing(url):
            async with Feed.on(url) as feed:
                person = await live(feed)
                await write(writer, "full")
                await person.until_told("full")
                hog.let_go()
                await eventually(lambda: sql.fetchval(IS_ASLEEP))
                await write(writer, "after")
                await person.until_told("after")


async def test_numbers_are_given_though_the_queue_fills_between_two_looks(url: str, open_hog: OpenHog) -> None:
    """Without their NOTIFY; and whoever notifies meanwhile is told that he may try again."""
    async with connected(url) as sql, connected(url, **FEED_SETTINGS) as connection:
        numbering = await Numbering.load(connection)
        await write(sql, "one")
        await open_hog()
        await fill_up(sql)
        assert await numbering.advance(connection, tell_rows_max=16) == 1
        assert [row[7] for row in numbering.rows] == ["one"]
        await write(sql, "two")
        assert await numbering.advance(connection) == 1
        with pytest.raises(asyncpg.ProgramLimitExceededError) as refused:
            await sql.execute("notify somebody")
        assert is_conflict(refused.value) and is_passing(refused.value)


async def test_nobody_rings_where_it_could_refuse_the_write(url: str, open_hog: OpenHog) -> None:
    """Though the sequencer sleeps, as it looks every second: it finds what is written by itself."""
    async with connected(url) as sql, connected(url, **FEED_SETTINGS) as connection:
        numbering = await Numbering.load(connection)
        await connection.execute("select pg_advisory_lock(1953064044, 2)")  # as a sequencer that sleeps
        await open_hog()
        await fill_up(sql)
        await write(sql, "item")
        await sql.execute("select streams.send('chatMessage', 'g', null, 'typing', 'null')")
        await sql.execute("select streams.ring_doorbell()")
        assert await numbering.advance(connection) == 2
