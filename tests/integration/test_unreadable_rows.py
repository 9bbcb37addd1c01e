"""A row that the database stores but can't read: its own group's subscribers are told, and nobody else notices."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.harness import eventually
from tests.integration.sequencer_fixtures import WAIT_SECONDS, connected, sequencing
from tests.integration.test_rejoin import TOPIC, Feed, Person, check, write
from tidelog.feed.fast_path import FastPath
from tidelog.feed.subscription import SyncSubscription
from tidelog.model.change import Topic
from tidelog.model.position import Position
from tidelog.numbering.sequencer import SequencerThread
from tidelog.store.engine import Database
from tidelog.store.epoch import until_begun
from tidelog.web.dialects.motia import MotiaDialect

STREAM = "chatMessage"
BAD = Topic(STREAM, "bad")
# Bytes of which no text can be made: what a damaged page holds.
KINDS = {
    "no jsonb at all": r"\x00000000",  # the server can't make a text of it
    "bytes that are no characters": r"\x0100005001000000ff",  # it can, and the client can't read that
}


@pytest.fixture(params=KINDS)
async def sql(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A superuser's connection, to a database in which `bad()` is such a value."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            await until_begun(sql, WAIT_SECONDS)  # what a reader waits for
        await sql.execute("create cast (bytea as jsonb) without function")
        await sql.execute(
            f"create function bad() returns jsonb language sql as $$ select '{KINDS[request.param]}'::bytea::jsonb $$"
        )
        yield sql


@asynccontextmanager
async def numbered(feed: Feed, url: str) -> AsyncIterator[None]:
    """By a sequencer that tells the reader of its process what it numbered."""
    thread = SequencerThread(Database.connector(url), None, FastPath(feed.broadcaster))
    thread.start()
    try:
        yield
    finally:
        await asyncio.to_thread(thread.stop)


async def damage(sql: asyncpg.Connection[Any], group: str = "bad", *, rows_beside: int = 0, item: bool = True) -> None:
    """A commit with a change that can't be read, and so many others beside it; the item can't be read either."""
    async with sql.transaction():
        await sql.execute(
            "insert into streams.chat_message (group_id, id, data) "
            "select case when i % 2 = 0 then 'g' else 'beside' end, 'beside/' || i, '{}' "
            "from generate_series(1, $1::int) i",
            rows_beside,
        )
        await write(sql, "damaged", group)
        await sql.execute("update streams.change set data = bad() where group_id = $1 and id = 'damaged'", group)
        if item:
            await sql.execute("alter table streams.chat_message disable trigger all")
            await sql.execute(
                "update streams.chat_message set data = bad() where group_id = $1 and id = 'damaged'", group
            )
            await sql.execute("alter table streams.chat_message enable trigger all")


async def live(feed: Feed, topic: Topic = TOPIC, since: Position | None = None) -> Person:
    person = feed.subscribe(topic, since)
    await until_live(person)
    return person


async def until_live(person: Person, times: int = 1) -> None:
    await eventually(lambda: sum(frame["type"] == "live" for frame in person.frames) == times)


def refusals(person: Person) -> list[str]:
    return person.refused


@pytest.mark.parametrize("rows_beside", [0, 10, 300])
async def test_its_group_is_told_and_the_others_go_on(
    database_url: str, sql: asyncpg.Connection[Any], rows_beside: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Alone in its commit, among others' rows, and in a large one: these others come whole; the log says it once."""
    caplog.set_level(logging.WARNING, "tidelog")
    async with Feed.on(database_url) as feed, numbered(feed, database_url):
        person, unlucky = await live(feed), await live(feed, BAD)
        await write(sql, "before")
        await damage(sql, rows_beside=rows_beside)
        await write(sql, "after")
        await person.until_told("after")
        await check(sql, person)
        assert person.reasons() == refusals(person) == []
        await eventually(lambda: refusals(unlucky))
        assert (unlucky.reasons(), refusals(unlucky)) == (["unreadable"], ["item_unreadable"])
        assert not [frame for frame in person.frames if frame.get("feed") == "interrupted"]
        assert feed.reader.trouble is None
    told = [record for record in caplog.records if record.name == "tidelog.reader"]
    assert len(told) == 1 and "'bad'" in told[0].getMessage()


async def test_where_only_the_log_is_damaged_its_group_begins_again(
    database_url: str, sql: asyncpg.Connection[Any]
) -> None:
    """The item's present state can be had, so it is."""
    async with Feed.on(database_url) as feed, numbered(feed, database_url):
        unlucky = await live(feed)
        await damage(sql, "g", item=False)
        await until_live(unlucky, 2)
        await write(sql, "after")
        await unlucky.until_told("after")
        await check(sql, unlucky)
        assert (unlucky.reasons(), refusals(unlucky)) == (["unreadable"], [])


async def test_who_joins_or_comes_back_to_such_a_group_is_told(database_url: str, sql: asyncpg.Connection[Any]) -> None:
    """Not left waiting: in either dialect, with a position or without; who comes back to other groups has all."""
    async with Feed.on(database_url) as feed, numbered(feed, database_url):
        person = await live(feed)
        position = Position(person.frames[-1]["position"], feed.broadcaster.progress.epoch)
        await damage(sql, rows_beside=2)
        await write(sql, "after")
        await person.until_told("after")
        joined, resumed = feed.subscribe(BAD), feed.subscribe(BAD, position)
        motia = Person(feed, BAD)
        motia.dialect = MotiaDialect()
        feed.broadcaster.subscribe(SyncSubscription("s", motia, BAD, None))
        for one in (joined, resumed, motia):
            await eventually(lambda one=one: refusals(one))
            assert refusals(one) == ["item_unreadable"]
        assert resumed.reasons() in (["unreadable"], [])
        other = await live(feed, since=position)
        await check(sql, other)
        assert other.reasons() == []


async def test_an_event_that_cannot_be_read_is_lost_alone(database_url: str, sql: asyncpg.Connection[Any]) -> None:
    """Its group begins again."""
    async with Feed.on(database_url) as feed, numbered(feed, database_url):
        person, unlucky = await live(feed), await live(feed, BAD)
        async with sql.transaction():
            await sql.execute("set local session_replication_role = replica")  # the table's trigger would refuse it
            await sql.execute(
                "insert into streams.event (stream, group_id, type, data) values ($1, 'bad', 't', bad())", STREAM
            )
        await until_live(unlucky, 2)
        for topic, one in ((TOPIC, person), (BAD, unlucky)):
            await write(sql, "after", topic.group_id)
            await one.until_told("after")
        assert (person.reasons(), unlucky.reasons()) == ([], ["unreadable"])
