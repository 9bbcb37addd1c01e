"""A client that is slow costs little, and is served to the end; one that takes nothing is let go of."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.conftest import StartServer
from tests.faults.wire import handshake
from tests.harness import Server, Sql, Subscriber, connect_sql, eventually, free_port, until_numbered, uvicorn_command
from tests.integration.sequencer_fixtures import connected, sequencing
from tests.integration.test_outlet import SUBSCRIBES, client_frame
from tests.integration.test_rejoin import Feed, Person
from tests.peer import fold
from tidelog.errors import TidelogError
from tidelog.fair import Claim
from tidelog.feed.catch_up.openings import OPENINGS_AT_ONCE_MAX
from tidelog.feed.catch_up.spool import MEMORY_MAX_BYTES
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import PositionSubscription, Subscription, SyncSubscription
from tidelog.model.change import Topic
from tidelog.store.archive import Archive
from tidelog.web.dialects.motia import MotiaDialect

STREAM = "chatMessage"
INSERT = "insert into streams.chat_message (group_id, id, data) "
SYNC_BYTES = 4_000_000
READ_BYTES, READ_PAUSE_SECONDS = 16_384, 0.03  # 0.5 MB/s: the sync takes four times the time-outs below, and more
TIMEOUT_SECONDS = "2"
LAST_FRAGMENT = b"\x80\x03]}}"
GROUPS = 40
GROUP_BYTES = 100_000


async def fill(sql: Sql, group: str, size: int, items: int = 20) -> None:
    await sql.execute(
        f"{INSERT} select $1, i::text, jsonb_build_object('text', repeat(md5(i::text), $2 / 32)) "
        "from generate_series(1, $3::int) i",
        group,
        size // items,
        items,
    )


@asynccontextmanager
async def slow_connection(server: Server, subprotocol: str | None = None) -> AsyncIterator[tuple[Any, Any]]:
    """A TCP connection after the handshake, of which little is on its way: (reader, writer)."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=narrow, limit=READ_BYTES)
    writer.write(handshake(subprotocol))
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_a_client_that_reads_slowly_gets_all_of_a_sync_and_one_that_stops_is_let_go_of(
    start_server: StartServer,
) -> None:
    """Though it answers no ping, nor has taken all that waits in the time for that: what it takes is a sign of life."""
    port = free_port()
    pings = ["--ws-ping-interval", TIMEOUT_SECONDS, "--ws-ping-timeout", TIMEOUT_SECONDS]
    server = await start_server(
        port=port,
        command=[*uvicorn_command(port), *pings],
        TIDELOG_SOCKET_DRAIN_TIMEOUT_SECONDS=TIMEOUT_SECONDS,
        TIDELOG_LOG_ACCESS="true",
    )
    sql = await connect_sql(server.database_url)
    await fill(sql, "g", SYNC_BYTES)
    await until_numbered(sql)
    async with slow_connection(server) as (reader, writer):
        writer.write(client_frame(1, json.dumps(SUBSCRIBES["motia"]).encode()))
        received, end = 0, b""
        while LAST_FRAGMENT not in end:
            part = await reader.read(READ_BYTES)
            assert part, f"closed after {received} bytes"
            received += len(part)
            end = end[-8:] + part
            await asyncio.sleep(READ_PAUSE_SECONDS)  # this is what it is: slow
        assert received > SYNC_BYTES
        async with asyncio.timeout(60):
            while await reader.read(READ_BYTES):
                pass  # it answers no ping, and there is nothing left to be taken
    async with slow_connection(server) as (reader, writer):
        writer.write(client_frame(1, json.dumps(SUBSCRIBES["motia"]).encode()))
        assert await reader.read(READ_BYTES)
        # It stops in the midst of it.
        await eventually(
            lambda: sum(one["message"] == "socket closed" for one in server.records("tidelog.access")) == 2
        )
    await sql.close()


@pytest.mark.parametrize("ws", ["tidelog.web.protocol:SocketProtocol", "websockets-sansio"])
async def test_a_long_sync_is_of_the_moment_at_which_it_is_sent_and_what_follows_comes_behind_it(
    start_server: StartServer, ws: str
) -> None:
    """Also in fragments, also where it is written to while it is read and sent; pings are answered in between."""
    port = free_port()
    server = await start_server(port=port, command=uvicorn_command(port, ws=ws), is_patient=True)
    sql = await connect_sql(server.database_url)
    await fill(sql, "g", SYNC_BYTES, 400)
    writing = asyncio.Event()

    async def write() -> None:
        other = await connect_sql(server.database_url)
        n = 0
        while not writing.is_set():
            n += 1
            await other.execute(f"{INSERT} values ('g', $1, '{{}}')", f"new {n}")
            await other.execute("delete from streams.chat_message where group_id = 'g' and id = $1", str(n))
            await other.execute(
                "update streams.chat_message set data = data || jsonb_build_object('n', $1::int) "
                "where group_id = 'g' and id = $2", n, str(400 - n % 100),
            )  # fmt: skip
        await other.close()

    writer = asyncio.create_task(write())
    async with (
        connect(server.ws_url, max_size=None, max_queue=1, proxy=None) as first,
        connect(server.ws_url, max_size=None, max_queue=1, proxy=None) as second,
    ):
        views = []
        for ws_connection in (first, second):
            subscriber = Subscriber(ws_connection)
            view = await subscriber.watch(STREAM, "g")
            item = await subscriber.watch(STREAM, "g", "400")
            await (await ws_connection.ping())
            await subscriber.until(lambda _, view=view, item=item: view.is_synced and item.is_synced)  # type: ignore[misc]
            views.append((subscriber, view))
        writing.set()
        await writer
        rows = await sql.fetch("select id, data from streams.chat_message where group_id = 'g'")
        for subscriber, view in views:
            await subscriber.until_mark(sql, view)
            assert view.items == {row["id"]: row["data"] for row in rows}
    await sql.close()


class Slow(Person):
    """One that is full with the first snapshot that it is sent, until it is told to take more."""

    def __init__(self, feed: Feed, dialect: str, groups: int) -> None:
        super().__init__(feed)
        self.takes_all = False
        self.synced: list[str] = []
        subscriptions: list[Subscription] = []
        if dialect == "motia":
            self.dialect = MotiaDialect()
            subscriptions = [SyncSubscription(f"s{n}", self, Topic(STREAM, f"g{n}")) for n in range(groups)]
        else:
            subscriptions = [PositionSubscription(f"s{n}", self, Topic(STREAM, f"g{n}")) for n in range(groups)]
        self.subscriptions = subscriptions
        for subscription in subscriptions:
            feed.broadcaster.subscribe(subscription)

    def write(self, messages: Messages) -> None:
        self.is_full = not self.takes_all
        for payload in messages.payloads:
            frame = json.loads(payload)
            if "event" in frame or (frame["type"] == "snapshot" and not frame["more"]):
                self.synced.append(frame.get("groupId") or frame["subscription"])

    deliver = write

    def refuse(self, subscription: Subscription, error: TidelogError) -> None:
        super().refuse(subscription, error)

    def go_on(self) -> None:
        self.takes_all, self.is_full = True, False


@pytest.mark.parametrize("dialect", SUBSCRIBES)
async def test_what_a_client_does_not_take_is_not_read_ahead_for_it(
    database_url: str, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of forty groups a few are read, and the rest when it takes them: each once."""
    begun: list[Topic] = []
    snapshot = Archive.snapshot

    def noting(self: Archive, topic: Topic, item_id: str | None, claim: Claim) -> Any:
        begun.append(topic)
        return snapshot(self, topic, item_id, claim)

    monkeypatch.setattr(Archive, "snapshot", noting)
    async with connected(database_url) as sql:
        with sequencing(database_url):
            for n in range(GROUPS):
                await fill(sql, f"g{n}", GROUP_BYTES)
            await until_numbered(sql)
            async with Feed.on(database_url) as feed:
                slow, other = Slow(feed, dialect, GROUPS), Slow(feed, dialect, 1)
                await eventually(lambda: slow.synced and other.synced)
                other.go_on()
                memory = feed.broadcaster.budget.memory
                # Whoever comes later is served; then so would have been what was begun before.
                await eventually(lambda: Slow(feed, dialect, 1).synced or other.is_full is False)
                assert len(begun) <= OPENINGS_AT_ONCE_MAX + 3
                assert memory.taken < 2 * OPENINGS_AT_ONCE_MAX * MEMORY_MAX_BYTES
                slow.go_on()
                await eventually(lambda: len(set(slow.synced)) == GROUPS)
                await eventually(lambda: len(feed.broadcaster.registry.live_of(slow)) == GROUPS)
                assert (memory.taken, feed.broadcaster.budget.disk.taken) == (0, 0)


BUDGET = 1_048_576


@pytest.mark.parametrize("dialect", SUBSCRIBES)
async def test_a_snapshot_that_finds_no_room_waits_for_it_and_readiness_says_so(
    database_url: str, dialect: str
) -> None:
    """It waits in a line, with no transaction; when what is in the way ends, it is served."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            for n in range(2):
                await fill(sql, f"g{n}", 700_000)
            await fill(sql, "tiny", 100, 1)
            await until_numbered(sql)
            async with Feed.on(database_url, snapshot_memory_max_bytes=BUDGET, snapshot_disk_max_bytes=BUDGET) as feed:
                broadcaster = feed.broadcaster
                budget = broadcaster.budget
                # As much as a slow client's snapshot that is being sent.
                resource = budget.memory if dialect == "motia" else budget.disk
                room = await resource.wait("test", 400_000)
                waiting = Slow(feed, dialect, 1)
                waiting.takes_all = True
                await eventually(lambda: budget.troubles)
                assert (
                    await sql.fetchval(
                        "select count(*) from pg_stat_activity where datname = current_database() "
                        "and application_name like 'tidelog%' and state = 'idle in transaction'"
                    )
                    == 0
                )
                tiny = feed.subscribe(Topic(STREAM, "tiny"))
                await eventually(lambda: fold(tiny.frames))
                assert not waiting.synced
                room.release()
                await eventually(lambda: waiting.synced)
                await eventually(lambda: (budget.memory.taken, budget.disk.taken) == (0, 0))
                assert budget.troubles == {}


@pytest.mark.parametrize("dialect", SUBSCRIBES)
async def test_a_group_that_takes_more_than_there_is_is_refused(database_url: str, dialect: str) -> None:
    """And nothing is kept of it."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            await fill(sql, "g0", 2 * BUDGET)
            await until_numbered(sql)
            async with Feed.on(database_url, snapshot_memory_max_bytes=BUDGET, snapshot_disk_max_bytes=BUDGET) as feed:
                person = Slow(feed, dialect, 1)
                await eventually(lambda: person.refused == ["group_too_large"])
                budget = feed.broadcaster.budget
                await eventually(lambda: (budget.memory.taken, budget.disk.taken) == (0, 0))


@pytest.mark.parametrize("dialect", SUBSCRIBES)
async def test_room_is_not_waited_for_for_ever(database_url: str, dialect: str) -> None:
    """The subscription ends, by the code of what may pass."""
    async with connected(database_url) as sql:
        with sequencing(database_url):
            await fill(sql, "g0", 700_000)
            await until_numbered(sql)
            settings = {"snapshot_memory_max_bytes": BUDGET, "snapshot_disk_max_bytes": BUDGET}
            async with Feed.on(database_url, subscribe_patience_seconds=0.2, **settings) as feed:
                budget = feed.broadcaster.budget
                rooms = [await one.wait("test", BUDGET) for one in (budget.memory, budget.disk)]
                person = Slow(feed, dialect, 1)
                await eventually(lambda: person.refused == ["subscription_unavailable"])
                for room in rooms:
                    room.release()
                assert (budget.memory.taken, budget.disk.taken) == (0, 0)


async def test_groups_that_are_written_to_while_they_are_read_do_not_take_the_room_from_each_other(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which one fits at a time. What changed while one was read is laid over it in the room that it has."""
    begun: list[Topic] = []
    async with connected(database_url) as sql:
        with sequencing(database_url):
            for n in range(2):
                await fill(sql, f"g{n}", 700_000)
            await until_numbered(sql)
            async with Feed.on(database_url, snapshot_disk_max_bytes=BUDGET) as feed:
                disk = feed.broadcaster.budget.disk
                room = await disk.wait("test", BUDGET)
                slow = Slow(feed, "motia", 2)
                slow.takes_all = True
                await eventually(lambda: len(disk._waiting) == 2)
                read_items = Archive.snapshot

                @asynccontextmanager
                async def written_to(
                    self: Archive, topic: Topic, item_id: str | None, claim: Claim
                ) -> AsyncIterator[Any]:
                    begun.append(topic)
                    async with read_items(self, topic, item_id, claim) as snapshot:
                        update = "update streams.chat_message set data = data || $2 where group_id = $1 and id = '1'"
                        await sql.execute(update, topic.group_id, json.dumps({"n": len(begun)}))
                        await eventually(lambda: feed.broadcaster.progress.position > snapshot.head.number)
                        yield snapshot

                monkeypatch.setattr(Archive, "snapshot", written_to)
                room.release()
                await eventually(lambda: len(slow.synced) == 2, timeout_seconds=30)
                assert len(begun) == 2
                assert disk.taken == 0


async def test_what_finds_no_room_for_what_was_changed_meanwhile_waits_for_that(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It isn't read again and again while there is none."""
    begun = 0
    async with connected(database_url) as sql:
        with sequencing(database_url):
            await fill(sql, "g0", 700_000)
            await until_numbered(sql)
            async with Feed.on(database_url, snapshot_disk_max_bytes=BUDGET) as feed:
                disk = feed.broadcaster.budget.disk
                room = await disk.wait("test", 150_000)  # and as much again
                read_items = Archive.snapshot

                @asynccontextmanager
                async def growing(self: Archive, topic: Topic, item_id: str | None, claim: Claim) -> AsyncIterator[Any]:
                    nonlocal begun
                    begun += 1
                    async with read_items(self, topic, item_id, claim) as snapshot:
                        if begun == 1:
                            await fill(sql, "g0-more", 100_000)
                            await sql.execute(
                                "update streams.chat_message set group_id = 'g0', id = id || ' more' "
                                "where group_id = 'g0-more'"
                            )
                            await eventually(lambda: feed.broadcaster.progress.position > snapshot.head.number + 1)
                        yield snapshot

                monkeypatch.setattr(Archive, "snapshot", growing)
                slow = Slow(feed, "motia", 1)
                slow.takes_all = True
                await eventually(lambda: feed.broadcaster.budget.troubles)
                assert (begun, slow.synced) == (1, [])
                room.release()
                await eventually(lambda: slow.synced)
                assert (begun, disk.taken) == (2, 0)
