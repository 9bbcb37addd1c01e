"""What becomes of subscriptions on their way when the reader comes back: to the history that it knew, or to another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from tests.feed_insides import go_on_from, tasks_of
from tests.harness import ROOT, Databases, Frame, eventually
from tests.integration.sequencer_fixtures import Log, connected, sequencing
from tests.peer import fold
from tidelog.errors import TidelogError
from tidelog.feed.broadcaster import Broadcaster
from tidelog.feed.fast_path import FastPath
from tidelog.feed.messages import Messages
from tidelog.feed.reader import Reader
from tidelog.feed.subscription import Dialect, PositionSubscription, Subscription, SyncSubscription
from tidelog.model.change import Commit, Topic
from tidelog.model.position import Position
from tidelog.runtime.discovery import discover
from tidelog.settings import Settings
from tidelog.store.archive import Archive
from tidelog.store.bulk import Bulk
from tidelog.store.engine import Database
from tidelog.store.epoch import begin_epoch
from tidelog.web.dialects.motia import MotiaDialect
from tidelog.web.dialects.tidelog import TidelogDialect

TOPIC = Topic("chatMessage", "g")
SHARED = 3  # commits
DIALECT = TidelogDialect()
MANY = 3000  # changes: more than a page


class Person:
    """A subscriber of one topic, whose messages are kept."""

    def __init__(self, feed: Feed, topic: Topic = TOPIC, since: Position | None = None) -> None:
        self.is_full = False
        self.refused: list[str] = []
        self.has_failed = False
        self.dialect: Dialect = DIALECT
        self.client = self.outlet = self
        self.frames: list[Frame] = []
        self.subscription = PositionSubscription("s", self, topic, None, since)
        feed.broadcaster.enter(self)

    def write(self, messages: Messages) -> None:
        self.frames += [json.loads(payload) for payload in messages.payloads]

    deliver = write

    @staticmethod
    def write_all(outlets: Iterable[Person], messages: Messages) -> None:
        for outlet in outlets:
            outlet.write(messages)

    async def drained(self) -> None:
        await eventually(lambda: not self.is_full)

    @property
    def taken(self) -> int:
        return 0

    def give_up(self, position: int | None) -> None:
        raise AssertionError

    def refuse(self, _subscription: Subscription, error: TidelogError) -> None:
        self.refused.append(error.code)

    def fail(self) -> None:
        self.has_failed = True

    def statuses(self) -> list[str]:
        return [frame["feed"] for frame in self.frames if frame["type"] == "status"]

    def check_order(self) -> None:
        """A position that it was told holds: nothing of before comes after it."""
        position = 0
        for frame in self.frames:
            if frame["type"] in ("commit", "status"):
                assert frame["position"] >= position + (frame["type"] == "commit"), self.frames
                position = frame["position"]

    def reasons(self) -> list[str]:
        """Of the resets."""
        return [frame["reason"] for frame in self.frames if frame["type"] == "reset"]

    async def until_told(self, id: str) -> None:
        """Of a change of this item."""
        await eventually(lambda: any(one["id"] == id for f in self.frames for one in f.get("changes", ())))


class Feed:
    """A reader and a broadcaster, and what stands between them and the database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._connect = database.connect
        self._is_open = asyncio.Event()
        self._is_open.set()
        self.broadcaster = Broadcaster(Archive(database, discover(ROOT / "app/steps").streams), settings)
        self.reader = Reader(
            self._connect_reader, self.broadcaster, FastPath(self.broadcaster), self.broadcaster.archive.reconnect
        )

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str, **settings: Any) -> AsyncIterator[Feed]:
        database = Database(pool_size_max=2, pool_timeout_seconds=5)
        await database.open(url)
        feed = cls(database, Settings(**settings))
        reading = asyncio.create_task(feed.reader.run())
        try:
            await feed.reader.started.wait()
            yield feed
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await feed.broadcaster.close()
            await database.close()

    async def _connect_reader(self, **settings: str) -> asyncpg.Connection[Any]:
        await self._is_open.wait()
        return await self._connect(**settings)

    async def cut(self, sql: asyncpg.Connection[Any]) -> None:
        """The reader's connection is lost, and it gets no other before `mend`."""
        self._is_open.clear()
        await sql.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'tidelog reader' and datname = current_database()"
        )
        await eventually(lambda: self.reader.trouble)

    async def mend(self) -> None:
        self._is_open.set()
        await eventually(lambda: self.reader.trouble is None)

    async def until_waited_for(self) -> None:
        """Somebody has asked where the log ends, and waits for the reader to come so far."""
        await eventually(lambda: self.broadcaster.progress._moved._waiters)

    def subscribe(self, topic: Topic = TOPIC, since: Position | None = None) -> Person:
        person = Person(self, topic, since)
        self.broadcaster.subscribe(person.subscription)
        return person


async def write(sql: asyncpg.Connection[Any], id: str, group: str = "g") -> None:
    await sql.execute("insert into streams.chat_message (group_id, id, data) values ($1, $2, '{}')", group, id)


async def check(sql: asyncpg.Connection[Any], person: Person) -> None:
    """It comes to know what there is, and nothing else."""
    rows = await sql.fetch("select id, data from streams.chat_message where group_id = 'g'")
    items = {row["id"]: json.loads(row["data"]) for row in rows}
    await eventually(lambda: fold(person.frames) == items)


@pytest.fixture
async def shared(database_url: str) -> None:
    """The first commits."""
    async with Log.open(database_url) as log:
        with sequencing(database_url):
            for n in range(SHARED):
                await log.write_numbered(f"shared {n}")


@pytest.fixture
async def other_url(databases: Databases, database_url: str, shared: None) -> AsyncIterator[str]:
    """A database that has the first commits, and will lack what comes after them: to replace the other one."""
    url = await databases.create(template=str(make_url(database_url).database))
    yield url
    with suppress(asyncpg.InvalidCatalogNameError):  # it has the other one's name
        await databases.drop(url)


async def test_one_that_is_further_than_the_reader(databases: Databases, database_url: str, other_url: str) -> None:
    """It comes from another server with what is lost then, and waits for this one's reader to come so far."""
    async with Feed.on(database_url) as feed:
        with sequencing(database_url):
            async with Log.open(database_url) as log:
                await feed.cut(log.writer)
                head = [await log.write_numbered(f"lost {n}") for n in range(4)][-1]
                person = feed.subscribe(since=Position(head, feed.broadcaster.progress.epoch))
                await feed.until_waited_for()
            await databases.replace(database_url, other_url)
            await feed.mend()
            async with connected(database_url) as sql:
                for n in range(8):
                    await write(sql, f"new {n}")
                await check(sql, person)
                assert person.reasons() in (["ahead"], ["epoch"])  # before the new epoch is begun, or after


async def test_the_status_is_told_to_one_that_could_not_take_it(database_url: str, shared: None) -> None:
    """When it can, and not before: its position holds for all that is live."""
    async with Feed.on(database_url) as feed, connected(database_url) as sql:
        person = feed.subscribe()
        await eventually(lambda: person.frames and person.frames[-1]["type"] == "live")
        person.is_full = True
        feed.broadcaster.note_full(person)
        epoch = str(await begin_epoch(sql, SHARED))
        await eventually(lambda: feed.broadcaster.progress.epoch == epoch)
        with sequencing(database_url):
            await write(sql, "missed")
            await eventually(lambda: feed.broadcaster.registry.behind(person))
            assert person.frames[-1]["type"] == "live"
            person.is_full = False
            await person.until_told("missed")
            await eventually(lambda: person.statuses())
            assert [frame["epoch"] for frame in person.frames if frame["type"] == "status"] == [epoch]
            person.check_order()


async def test_the_status_is_told_as_soon_as_a_connection_has_drained(database_url: str, shared: None) -> None:
    """Not with the next commit, which does not come while the feed is interrupted."""
    async with Feed.on(database_url) as feed, connected(database_url) as sql:
        person = feed.subscribe()
        await eventually(lambda: person.frames and person.frames[-1]["type"] == "live")
        person.is_full = True
        feed.broadcaster.note_full(person)
        await feed.cut(sql)
        assert person.statuses() == []
        person.is_full = False
        await eventually(lambda: person.statuses() == ["interrupted"])
        person.is_full = True
        await feed.mend()
        await feed.cut(sql)
        await feed.mend()
        person.is_full = False
        await eventually(lambda: person.statuses() == ["interrupted", "live"])  # what holds now, once
        person.check_order()


async def test_the_status_is_told_to_one_that_reads_the_log(
    database_url: str, shared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the interruption begins and when it ends, with the position that this one has come to."""
    may_read = asyncio.Event()
    async with Feed.on(database_url) as feed, connected(database_url) as sql:
        person = feed.subscribe()
        await eventually(lambda: person.frames and person.frames[-1]["type"] == "live")
        ready = feed.broadcaster.archive.ready

        async def wait_and_read(*arguments: Any) -> Any:
            await may_read.wait()
            return await ready(*arguments)

        monkeypatch.setattr(feed.broadcaster.archive, "ready", wait_and_read)
        person.is_full = True
        feed.broadcaster.note_full(person)
        with sequencing(database_url):
            await write(sql, "missed")
            await eventually(lambda: feed.broadcaster.progress.position == SHARED + 1)
            person.is_full = False
            await feed.cut(sql)
            await eventually(lambda: person.statuses() == ["interrupted"])
            await feed.mend()
            await eventually(lambda: person.statuses() == ["interrupted", "live"])
            assert {frame["position"] for frame in person.frames if frame["type"] == "status"} == {SHARED}
            may_read.set()
            await person.until_told("missed")
            await write(sql, "live")
            await person.until_told("live")
        person.check_order()


async def test_a_connection_that_ends_is_not_waited_for(database_url: str, shared: None) -> None:
    """Nothing of one that was full when it should have been told stays behind."""
    async with Feed.on(database_url) as feed, connected(database_url) as sql:
        person = feed.subscribe()
        await eventually(lambda: person.frames and person.frames[-1]["type"] == "live")
        person.is_full = True
        await feed.cut(sql)
        assert tasks_of(feed.broadcaster)
        feed.broadcaster.unsubscribe(person.subscription)
        feed.broadcaster.leave(person, ())
        await eventually(lambda: not tasks_of(feed.broadcaster))
        assert person.statuses() == []


async def test_one_that_waits_goes_on_if_nothing_is_lost(database_url: str, shared: None) -> None:
    """The same history: what it asked before the reader came back is asked again, and answered as before."""
    async with Feed.on(database_url) as feed:
        with sequencing(database_url):
            async with Log.open(database_url) as log:
                await feed.cut(log.writer)
                await log.write_numbered("missed")
                person = feed.subscribe(since=Position(SHARED, feed.broadcaster.progress.epoch))
                await feed.until_waited_for()
                await feed.mend()
                await person.until_told("missed/1")
                await eventually(lambda: person.frames[-1]["type"] == "live")
                await log.write("live")
                await person.until_told("live/1")
                assert person.reasons() == []


async def test_a_commit_that_the_reader_has_in_part(
    databases: Databases, database_url: str, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost; a replay had delivered it already. Who comes after that is not sent for what there is no more."""
    is_halfway = asyncio.Event()

    async def read_halfway(bulk: Bulk, _commit: Commit, _wanted: Collection[Topic]) -> Commit:
        is_halfway.set()
        await eventually(bulk._connection.is_closed)
        raise ConnectionResetError

    monkeypatch.setattr(Bulk, "read", read_halfway)
    async with Feed.on(database_url) as feed:
        other = feed.subscribe(Topic("chatMessage", "large"))
        await eventually(lambda: other.frames and other.frames[-1]["type"] == "live")
        with sequencing(database_url):
            async with connected(database_url) as sql:
                await sql.execute(
                    "insert into streams.chat_message (group_id, id, data) "
                    f"select case i when 1 then 'g' else 'large' end, i::text, '{{}}' from generate_series(1, {MANY}) i"
                )
            await is_halfway.wait()
            assert feed.broadcaster.progress.furthest == SHARED + 1
            ahead = Person(feed)
            go_on_from(feed.broadcaster, ahead.subscription, SHARED)  # as when its snapshot has been sent
            await ahead.until_told("1")
            generation = feed.broadcaster.progress.generation
            await databases.replace(database_url, other_url)
            monkeypatch.undo()
            await eventually(lambda: feed.broadcaster.progress.generation > generation)
            after = feed.subscribe()
            await eventually(lambda: after.frames and after.frames[-1]["type"] == "live")
            async with connected(database_url) as sql:
                for id in ("new", "last"):
                    await write(sql, id)
                for person in (ahead, after):
                    await person.until_told("last")
                    await check(sql, person)
    assert (other.reasons(), ahead.reasons(), after.reasons()) == (["epoch"], ["epoch"], [])


async def test_a_sync_after_a_loss_is_newer_than_the_one_before(
    databases: Databases, database_url: str, other_url: str
) -> None:
    """Motia's clients drop an item's message that is not, and would keep what is lost."""
    async with Feed.on(database_url) as feed:
        async with Log.open(database_url) as log:
            with sequencing(database_url):
                lost = await log.write_numbered("lost")
            person = Person(feed)
            person.dialect = MotiaDialect()
            feed.broadcaster.subscribe(SyncSubscription("s", person, TOPIC, "lost/1"))
            await eventually(lambda: person.frames)
            assert feed.broadcaster.progress.position == lost
        await databases.replace(database_url, other_url)
        await eventually(lambda: len(person.frames) == 2)
    first, second = person.frames
    assert (first["event"]["data"]["id"], second["event"]["data"]) == ("lost/1", None)
    assert second["timestamp"] > first["timestamp"]


async def test_a_new_epoch_of_the_same_history_is_told(database_url: str, shared: None) -> None:
    """A client that comes back with what it was told last begins with nothing anew."""
    async with Feed.on(database_url) as feed, connected(database_url) as sql:
        person = feed.subscribe()
        await eventually(lambda: person.frames and person.frames[-1]["type"] == "live")
        epoch = str(await begin_epoch(sql, SHARED))
        await eventually(lambda: person.frames[-1]["type"] == "status")
        assert person.frames[-1] == {"type": "status", "feed": "live", "position": SHARED, "epoch": epoch}
        with sequencing(database_url):
            await write(sql, "new")
            await person.until_told("new")
            again = feed.subscribe(since=Position(person.frames[-1]["position"], epoch))
            await eventually(lambda: again.frames and again.frames[-1]["type"] == "live")
            assert again.reasons() == []
