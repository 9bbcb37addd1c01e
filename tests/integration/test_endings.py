"""A subscription that the server ends: nothing of it is left in the feed, and everybody who shared it is told."""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import pytest

from tests.feed_insides import left_of
from tests.harness import eventually
from tests.integration.sequencer_fixtures import Log, connected, sequencing
from tests.integration.test_rejoin import TOPIC, Feed, Person, write
from tests.integration.test_sequencer_standby import process_of_backend
from tidelog.errors import StreamUnknownError
from tidelog.feed.broadcaster import Broadcaster
from tidelog.feed.catch_up import overlay
from tidelog.feed.subscription import PositionSubscription, Subscription, SyncSubscription
from tidelog.model.position import Position
from tidelog.store import archive
from tidelog.web.dialects.motia import MotiaDialect
from tidelog.web.dialects.tidelog import TidelogDialect

DIALECTS = {"motia": MotiaDialect, "tidelog": TidelogDialect}
PEOPLE = 3


@pytest.fixture
async def url(database_url: str) -> str:
    """A database with an item."""
    async with Log.open(database_url) as log:
        with sequencing(database_url):
            await log.write_numbered("there")
    return database_url


def people(feed: Feed, dialect: str, item_id: str | None = None) -> list[tuple[Person, Subscription]]:
    """Some who subscribe to the same at once."""
    made = []
    for _ in range(PEOPLE):
        person = Person(feed)
        person.dialect = DIALECTS[dialect]()
        subscription: Subscription = person.subscription
        if dialect == "motia":
            subscription = SyncSubscription("s", person, TOPIC, item_id)
        else:
            subscription.item_id = item_id
        feed.broadcaster.subscribe(subscription)
        made.append((person, subscription))
    return made


async def until_nothing_is_left(broadcaster: Broadcaster) -> None:
    """But for the connections themselves."""

    await eventually(lambda: not left_of(broadcaster))


async def until_refused(made: list[tuple[Person, Subscription]], code: str) -> None:
    await eventually(lambda: all(person.refused == [code] for person, _ in made))


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_group_that_is_too_large(url: str, dialect: str) -> None:
    """Each is told once, and then there is nobody any more."""
    async with Feed.on(url, sync_size_max_bytes=1, snapshot_size_max_bytes=1) as feed:
        await until_refused(people(feed, dialect), "group_too_large")
        await until_nothing_is_left(feed.broadcaster)
        assert feed.broadcaster.troubles.of_all is None


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_table_that_is_dropped(url: str, dialect: str) -> None:
    """So is each who shared the reading of it."""
    async with Feed.on(url) as feed, connected(url) as sql:
        await sql.execute("drop table streams.chat_message cascade")
        await until_refused(people(feed, dialect), "stream_unreadable")
        await until_nothing_is_left(feed.broadcaster)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_stream_that_is_not_known_any_more(url: str, dialect: str) -> None:
    """An error of Tidelog's own is not tried again, and reaches all who share the reading."""
    async with Feed.on(url) as feed:
        feed.broadcaster.archive._streams = {}
        await until_refused(people(feed, dialect), StreamUnknownError.code)
        await until_nothing_is_left(feed.broadcaster)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_snapshot_that_takes_too_long(url: str, dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is this stream's trouble, for a time."""
    monkeypatch.setattr(archive, "SNAPSHOT_TIMEOUT_SECONDS", 0.1)
    async with Feed.on(url, subscribe_patience_seconds=0.05) as feed, connected(url) as sql:
        async with sql.transaction():
            await sql.execute("lock table streams.chat_message")
            await until_refused(people(feed, dialect), "subscription_unavailable")
        assert "took over 0.1 s" in feed.broadcaster.troubles.of_streams["chatMessage"]
        assert feed.broadcaster.troubles.of_all is None
        await until_nothing_is_left(feed.broadcaster)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_connection_that_is_waited_for_too_long(
    url: str, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is everybody's trouble, and over when connections are free again."""
    monkeypatch.setattr(archive, "CONNECTION_TIMEOUT_SECONDS", 0.05)
    async with Feed.on(url, subscribe_patience_seconds=0.05) as feed:
        pool = feed.broadcaster.archive._database.archive_pool
        taken = [await pool.acquire() for _ in range(pool.get_max_size())]
        await until_refused(people(feed, dialect), "subscription_unavailable")
        assert "no connection for a snapshot" in str(feed.broadcaster.troubles.of_all)
        for connection in taken:
            await pool.release(connection)
        people(feed, dialect)
        await eventually(lambda: feed.broadcaster.troubles.of_all is None)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_commits_that_nobody_numbers(url: str, dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot shows what the feed never comes to: said after a time, as everybody's trouble."""
    async with Feed.on(url, subscribe_patience_seconds=0.05) as feed, connected(url) as sql:
        await write(sql, "unnumbered")
        with monkeypatch.context() as hurried:
            hurried.setattr(overlay, "STALL_SECONDS", 0.05)
            await until_refused(people(feed, dialect), "subscription_unavailable")
        assert "FeedStalledError" in str(feed.broadcaster.troubles.of_all)
        await until_nothing_is_left(feed.broadcaster)
        with sequencing(url):
            for person, _ in people(feed, dialect):
                await eventually(lambda person=person: person.frames)
            await eventually(lambda: feed.broadcaster.troubles.of_all is None)


async def test_commits_that_take_their_time_to_be_numbered(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed that gives signs, as when it reads a large commit page by page, is waited for."""
    monkeypatch.setattr(overlay, "STALL_SECONDS", 0)  # a turn of the event loop
    async with Feed.on(url, subscribe_patience_seconds=0.01) as feed, connected(url) as sql:
        await write(sql, "unnumbered")
        signs = 0

        async def give_signs() -> None:
            nonlocal signs
            while True:
                feed.broadcaster.settle()
                signs += 1
                await asyncio.sleep(0)

        giving = asyncio.create_task(give_signs())
        made = people(feed, "tidelog")
        await eventually(lambda: feed.broadcaster.registry.snapshot_followers)
        enough = signs + 100
        await eventually(lambda: signs > enough)
        with sequencing(url):
            await eventually(lambda: all(person.frames and person.frames[-1]["type"] == "live" for person, _ in made))
        giving.cancel()
        assert [person.refused for person, _ in made] == [[]] * PEOPLE


@pytest.mark.parametrize(("dialect", "method"), [("motia", "sync"), ("tidelog", "items")])
async def test_a_bug_sends_away_those_who_share_the_reading(
    url: str, dialect: str, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And neither the feed nor anybody else; it is logged once, with its place."""
    async with Feed.on(url) as feed:
        other = Person(feed)
        feed.broadcaster.subscribe(other.subscription)
        await eventually(lambda: other.frames and other.frames[-1]["type"] == "live")
        with monkeypatch.context() as broken:
            broken.setattr(DIALECTS[dialect], method, broken_method)
            made = people(feed, dialect)
            await eventually(lambda: all(person.has_failed for person, _ in made))
        for person, subscription in made:  # as their connections do when they end
            feed.broadcaster.leave(person, [subscription])
        assert feed.reader.trouble is None
        with sequencing(url):
            async with connected(url) as sql:
                await write(sql, "after")
                await other.until_told("after")
        feed.broadcaster.unsubscribe(other.subscription)
        await until_nothing_is_left(feed.broadcaster)
    bugs = [record for record in caplog.records if "a bug" in record.getMessage()]
    assert [record.exc_info is not None for record in bugs] == [True]


def broken_method(*_: object) -> None:
    raise TypeError("a bug")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_clients_that_vanish_while_their_snapshot_is_read(url: str, dialect: str) -> None:
    """The last of them ends the reading."""
    async with Feed.on(url) as feed, connected(url) as sql:
        await write(sql, "unnumbered")  # which their snapshots wait for
        made = people(feed, dialect)
        await eventually(lambda: any(one._head is not None for one in feed.broadcaster.registry.snapshot_followers))
        for person, subscription in made:
            feed.broadcaster.leave(person, [subscription])
        await until_nothing_is_left(feed.broadcaster)
        assert [person.refused for person, _ in made] == [[]] * PEOPLE


async def test_one_that_fell_behind_and_can_not_read_the_log(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was live; it is told like one that never was."""
    async with Feed.on(url, subscribe_patience_seconds=0.01) as feed, connected(url) as sql:
        person = feed.subscribe()
        await eventually(lambda: person.frames and person.frames[-1]["type"] == "live")
        monkeypatch.setattr(feed.broadcaster.archive, "ready", no_connection)
        with sequencing(url):
            person.is_full = True
            feed.broadcaster.note_full(person)
            await write(sql, "missed")
            await eventually(lambda: feed.broadcaster.registry.behind(person))
            person.is_full = False
            await eventually(lambda: person.refused == ["subscription_unavailable"])
        await until_nothing_is_left(feed.broadcaster)


async def no_connection(*_: object) -> None:
    raise asyncpg.TooManyConnectionsError("too many connections for role")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_one_that_is_refused_when_it_is_live(url: str, dialect: str) -> None:
    """And is told once, though it is refused twice."""
    async with Feed.on(url) as feed:
        made = people(feed, dialect)
        await eventually(
            lambda: all(subscription in feed.broadcaster.registry.live_of(person) for person, subscription in made)
        )
        for _ in range(2):
            for _, subscription in made:
                feed.broadcaster.lobby.refuse(subscription, StreamUnknownError("no such stream"))
        assert [person.refused for person, _ in made] == [["stream_unknown"]] * PEOPLE
        await until_nothing_is_left(feed.broadcaster)


@pytest.mark.parametrize("since", [None, 0])
async def test_a_server_process_that_freezes_keeps_nobody_waiting(
    url: str, since: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement of which not even the cancellation is answered: its connection is closed, another one serves."""
    for limit in ("SNAPSHOT_TIMEOUT_SECONDS", "PAGE_TIMEOUT_SECONDS", "ENDING_SECONDS"):
        monkeypatch.setattr(archive, limit, 0.1)
    async with Feed.on(url) as feed:
        async with feed.broadcaster.archive._database.archive_pool.acquire() as first:
            frozen = process_of_backend(first.get_server_pid())
        frozen.send_signal(signal.SIGSTOP)
        try:
            person = feed.subscribe(since=None if since is None else Position(since, feed.broadcaster.progress.epoch))
            await eventually(lambda: person.frames, 10)
        finally:
            frozen.send_signal(signal.SIGCONT)
        await eventually(lambda: person.frames[-1]["type"] == "live")


@pytest.mark.parametrize("kind", ["motia", "snapshot", "since"])
async def test_subscriptions_that_end_at_once_cost_the_database_nothing(
    url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a client begins and ends in one breath, nothing is read for them, and nothing of them is left."""
    asked: list[object] = []
    for method in "snapshot", "standing":
        monkeypatch.setattr(archive.Archive, method, lambda *arguments: asked.append(arguments))
    async with Feed.on(url) as feed:
        person = Person(feed)
        person.dialect = DIALECTS["motia" if kind == "motia" else "tidelog"]()
        since = Position(0, feed.broadcaster.progress.epoch) if kind == "since" else None
        for _ in range(1000):
            subscription: Subscription = (
                SyncSubscription("s", person, TOPIC, None)
                if kind == "motia"
                else PositionSubscription("s", person, TOPIC, None, since)
            )
            feed.broadcaster.subscribe(subscription)
            assert feed.broadcaster.unsubscribe(subscription)
        await until_nothing_is_left(feed.broadcaster)
        assert not asked and not person.refused
