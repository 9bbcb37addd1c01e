"""Anybody with a connection can send any NOTIFY: it may cause a look at the database, and nothing is believed of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from tests.harness import eventually
from tests.integration.sequencer_fixtures import Log, connected, sequencing
from tests.integration.test_rejoin import Feed, Person, write
from tidelog.consumer import Commit, consume
from tidelog.feed.hint import hinted_head
from tidelog.feed.reader import Reader
from tidelog.model.position import Position
from tidelog.store import consumers
from tidelog.store.live import LiveLog
from tidelog.store.log import Numbering

CHANNELS = ("tidelog_head", "tidelog_epoch", "tidelog_doorbell")
FORGED = (
    "1000000000000",
    "9223372036854775807",
    "9" * 5000,  # digits of which Python makes no number
    "-5",
    "0",
    "",
    "x" * 7999,
    "1e9",
    "٣",
    "00000000-0000-0000-0000-000000000000",
)
FLOOD = 3000


async def forge(sql: asyncpg.Connection[Any], channels: Sequence[str] = CHANNELS) -> None:
    for payload in FORGED:
        for channel in channels:
            await sql.execute("select pg_notify($1, $2)", channel, payload)


async def flood(sql: asyncpg.Connection[Any], channel: str, count: int = FLOOD) -> None:
    """So many NOTIFYs, each in a transaction of its own; equal ones in one would be one."""
    for n in range(count):
        await sql.execute(f"notify {channel}, '{10**12 + n}'")


async def live(feed: Feed, since: Position | None = None) -> Person:
    person = feed.subscribe(since=since)
    await eventually(lambda: any(frame["type"] == "live" for frame in person.frames))
    return person


def test_a_payload_that_is_no_number_is_no_hint() -> None:
    """Whatever it is, nothing is raised, which would be in the log for each of a flood."""
    assert [hinted_head(payload) for payload in FORGED[2:]] == [0] * len(FORGED[2:])
    assert hinted_head("42") == 42
    assert hinted_head("9" * 19) == 2**63 - 1  # the largest that a statement takes


async def test_a_forged_head_or_epoch_stops_nobody(database_url: str) -> None:
    """Commits are delivered after any payload, nobody begins again, and the epoch is the database's."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed:
                person = await live(feed)
                await write(sql, "before")  # the sequencer's own epoch has begun by then
                await person.until_told("before")
                epoch = feed.broadcaster.progress.epoch
                assert epoch == str(
                    await sql.fetchval("select epoch from streams.epoch order by began_at desc limit 1")
                )
                for round in ("one", "two"):
                    await forge(sql)
                    await write(sql, round)
                    await person.until_told(round)
                assert feed.broadcaster.progress.epoch == epoch
                assert {frame["type"] for frame in person.frames} <= {"snapshot", "live", "commit", "status"}
                assert {frame["epoch"] for frame in person.frames if frame["type"] == "status"} <= {epoch}
                again = await live(feed, Position(person.frames[-1]["position"], epoch))
                assert again.reasons() == []
                assert feed.reader.trouble is None


async def test_a_forged_head_stops_nobody_while_nobody_subscribes(database_url: str) -> None:
    """The first that comes then begins where the log is."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed:
                await forge(sql)
                await write(sql, "before")
                person = await live(feed)
                await write(sql, "after")
                await person.until_told("after")
                (snapshot,) = [frame for frame in person.frames if frame["type"] == "snapshot"]
                assert [item["id"] for item in snapshot["items"]] == ["before"]


@pytest.mark.parametrize("channel", CHANNELS[:2])
async def test_a_flood_costs_the_reader_few_queries(
    database_url: str, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is committed in the midst of it is delivered."""
    looks = 0
    page, check_epoch = LiveLog.page, Reader._check_epoch

    async def counting_page(log: LiveLog, first: int, last: int) -> Sequence[Any]:
        nonlocal looks
        looks += 1
        return await page(log, first, last)

    async def counting_check(reader: Reader, connection: asyncpg.Connection[Any]) -> None:
        nonlocal looks
        looks += 1
        await check_epoch(reader, connection)

    monkeypatch.setattr(LiveLog, "page", counting_page)
    monkeypatch.setattr(Reader, "_check_epoch", counting_check)
    async with connected(database_url) as sql, connected(database_url) as writer:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed:
                person = await live(feed)
                flooding = asyncio.create_task(flood(sql, channel))
                await write(writer, "in the midst")
                await person.until_told("in the midst")
                await flooding
                await write(writer, "after")
                await person.until_told("after")
                assert looks < FLOOD / 4


async def test_a_feed_that_comes_back_in_the_midst_of_a_flood_is_told_to_go_on(database_url: str) -> None:
    """Though nothing is written: that a hint was forged is as good as none."""
    async with connected(database_url) as sql, connected(database_url) as cutting:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed:
                person = await live(feed)
                flooding = asyncio.create_task(flood(sql, "tidelog_head", 10**6))
                await feed.cut(cutting)
                await feed.mend()
                await eventually(lambda: person.statuses() == ["interrupted", "live"])
                assert not flooding.done()
                flooding.cancel()
                await asyncio.gather(flooding, return_exceptions=True)


async def test_a_flood_of_rings_costs_the_sequencer_few_queries(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It numbers what is written meanwhile."""
    looks = 0
    advance = Numbering.advance

    async def counting(numbering: Numbering, connection: asyncpg.Connection[Any], *, tell_rows_max: int = 0) -> int:
        nonlocal looks
        looks += 1
        return await advance(numbering, connection, tell_rows_max=tell_rows_max)

    monkeypatch.setattr(Numbering, "advance", counting)
    async with Log.open(database_url) as log, connected(database_url) as sql:
        with sequencing(database_url):
            await log.write_numbered("before")
            flooding = asyncio.create_task(flood(sql, "tidelog_doorbell"))
            await log.write_numbered("in the midst")
            await flooding
            await log.write_numbered("after")
            assert looks < FLOOD / 4


async def test_a_consumer_is_handed_each_commit_once_whatever_is_forged(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood costs it few transactions."""
    looks = 0
    seen: list[str] = []
    lock_position = consumers.lock_position

    async def counting(connection: Any, name: str) -> Any:
        nonlocal looks
        looks += 1
        return await lock_position(connection, name)

    async def handler(commit: Commit, _: object) -> None:
        seen.extend([change.id async for change in commit])

    monkeypatch.setattr("tidelog.consumer.lock_position", counting)
    async with connected(database_url) as sql:
        with sequencing(database_url):
            consuming = asyncio.create_task(consume(database_url, "forged", handler, start="beginning"))
            await forge(sql)
            await write(sql, "one")
            await eventually(lambda: seen == ["one"])
            await forge(sql)
            looks = 0
            await flood(sql, "tidelog_head")
            assert looks < FLOOD / 4
            await write(sql, "two")
            await eventually(lambda: seen == ["one", "two"])
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)


async def test_an_error_while_publishing_is_retried_later_and_later(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And told once: the feed is interrupted until something was published, not live at each new connection."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            async with Feed.on(database_url) as feed:
                person = await live(feed)
                pauses: list[float] = []

                def fail(_: object) -> None:
                    pauses.append(feed.reader._backoff._ceiling)
                    raise RuntimeError("a fault in publishing")

                monkeypatch.setattr(feed.broadcaster, "publish", fail)
                await write(sql, "told late")
                await eventually(lambda: len(pauses) == 4)
                assert feed.reader.trouble is not None
                monkeypatch.undo()
                await person.until_told("told late")
                await eventually(lambda: feed.reader.trouble is None)
                assert pauses == sorted(set(pauses))
                told = [frame["feed"] for frame in person.frames if frame["type"] == "status"]
                assert told[-2:] == ["interrupted", "live"]
                assert told.count("interrupted") == 1  # "live" is also told of a new epoch
