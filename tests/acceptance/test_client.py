"""The Python client against real servers: nothing lost and nothing twice, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.conftest import StartServer
from tests.harness import Server, Sql, until_numbered
from tests.proxy import Proxy
from tidelog.client import Client, Commit, Event, Live, Message, Reset, Snapshot, Subscription
from tidelog.errors import SubscriptionRefusedError

TIMEOUT_SECONDS = 120
GROUPS = ("general", "random", "quiet")

Told = tuple[int, str, str, int]  # position, op, id, version


def before(server: Server) -> Proxy:
    """A network between clients and the server, on which connections can be cut."""
    return Proxy(("127.0.0.1", server.port))


class Follower:
    """Follows a subscription in the background, and keeps what it was told."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.messages: list[Message] = []
        self._news = asyncio.Event()

    async def follow(self) -> None:
        async for message in self.subscription:
            self.messages.append(message)
            self._news.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the messages make it so."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    def look(self) -> None:
        """Have `until` look again, though no message came."""
        self._news.set()

    async def until_told_of(self, id: str) -> None:
        await self.until(lambda: bool(self.told) and self.told[-1][2] == id)

    @property
    def live_from(self) -> int:
        return next(message.position for message in self.messages if isinstance(message, Live))

    @property
    def told(self) -> list[Told]:
        """The changes of all commits, as they came."""
        return [
            (message.position, change.op, change.id, change.version)
            for message in self.messages
            if isinstance(message, Commit)
            for change in message.changes
        ]


@asynccontextmanager
async def following(*subscriptions: Subscription) -> AsyncIterator[list[Follower]]:
    """Followers that are live."""
    followers = [Follower(subscription) for subscription in subscriptions]
    tasks = [asyncio.create_task(follower.follow()) for follower in followers]
    for follower in followers:
        await follower.until(lambda: any(isinstance(message, Live) for message in follower.messages))  # noqa: B023 - awaited here
    yield followers
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def put(sql: asyncpg.Connection[Any], group: str, id: str, text: str = "") -> None:
    await sql.execute(
        "insert into streams.chat_message (group_id, id, data) values ($1, $2, $3) "
        "on conflict (group_id, id) do update set data = excluded.data",
        group,
        id,
        json.dumps({"author": "ada", "text": text}),
    )


async def logged(sql: asyncpg.Connection[Any], group: str, after: int, item: str | None = None) -> list[Told]:
    """What a subscription must have been told after a position. (Here no commit changes an item twice.)"""
    rows = await sql.fetch(
        "select position, op, id, version from streams.chat_message_history "
        "where group_id = $1 and position > $2 and ($3::text is null or id = $3) order by position, seq",
        group,
        after,
        item,
    )
    return [tuple(row) for row in rows]


async def write_at_random(database_url: str, rng: random.Random, commits: int) -> None:
    """Commits of one to three items of any groups, with deletions, on a connection of this writer's own."""
    sql = await asyncpg.connect(database_url)
    for number in range(commits):
        items = sorted({(rng.choice(GROUPS[:2]), f"i{rng.randrange(6)}") for _ in range(rng.randint(1, 3))})
        async with sql.transaction():
            for group, id in items:
                if rng.random() < 0.2:
                    await sql.execute("delete from streams.chat_message where group_id = $1 and id = $2", group, id)
                else:
                    await put(sql, group, id, f"{id} {number} {rng.random()}")
    await sql.close()


async def test_a_posted_message_and_an_event_reach_the_client(start_server: StartServer) -> None:
    """What is there, then what is posted, as it happens; a group that does not exist yet is empty."""
    server = await start_server()
    async with (
        server.http() as http,
        Client(server.ws_url, proxy=None) as client,
        following(client.subscribe("chatMessage", "general")) as (follower,),
    ):
        posted = (await http.post("/chat/general/messages", json={"author": "ada", "text": "hello"})).json()
        await follower.until_told_of(posted["id"])
        await http.post("/chat/general/typing", json={"author": "ada"})
        await http.delete(f"/chat/general/messages/{posted['id']}")
        await follower.until(lambda: len(follower.told) == 2)
    snapshot, live, created, typing, deleted = follower.messages
    assert isinstance(snapshot, Snapshot) and snapshot.items == () and isinstance(live, Live)
    assert isinstance(created, Commit) and created.changes[0].data == posted
    assert isinstance(typing, Event) and (typing.type, typing.data) == ("typing", {"author": "ada"})
    assert isinstance(deleted, Commit) and (deleted.changes[0].op, deleted.changes[0].data) == ("delete", posted)


async def test_an_unknown_stream_is_refused(start_server: StartServer) -> None:
    """Its subscription raises with the server's code, the server's log has its name; the connection goes on."""
    server = await start_server()
    async with Client(server.ws_url, proxy=None) as client:
        with pytest.raises(SubscriptionRefusedError) as raised:
            async for _ in client.subscribe("nope", "general"):
                pass
        assert raised.value.code == "STREAM_ACCESS_DENIED"
        (told,) = server.records("tidelog.subscriptions")
        assert "the stream 'nope', which is not declared here; declared are: chatMessage" in told["message"]
        async with following(client.subscribe("chatMessage", "general")):
            pass


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_it_finds_a_restarted_server_and_goes_on(start_server: StartServer, sql: Sql, how: str) -> None:
    """Stopped or killed: what was committed meanwhile comes when the server is back, without a new snapshot."""
    server = await start_server()
    port = server.port
    async with (
        Client(server.ws_url, proxy=None) as client,
        following(client.subscribe("chatMessage", "general")) as (follower,),
    ):
        await put(sql, "general", "before")
        await follower.until_told_of("before")
        await getattr(server, how)()
        for number in range(20):
            await put(sql, "general", f"meanwhile {number}")
        await start_server(port=port)
        await put(sql, "general", "after")
        await follower.until_told_of("after")
        assert follower.told == await logged(sql, "general", follower.live_from)
        assert len(follower.told) == 22
    assert not any(isinstance(message, Reset) for message in follower.messages)
    assert sum(isinstance(message, Snapshot) for message in follower.messages) == 1


async def test_dropped_connections_lose_and_repeat_nothing(
    start_server: StartServer, database_url: str, sql: Sql, seed: int
) -> None:
    """Two groups, a quiet one and an item on one connection, which is cut again and again while others write."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    server = await start_server()
    async with before(server) as proxy, Client(f"ws://127.0.0.1:{proxy.port}", proxy=None) as client:
        subscriptions = [client.subscribe("chatMessage", group) for group in GROUPS]
        subscriptions.append(client.subscribe("chatMessage", "general", item="i1"))
        async with following(*subscriptions) as followers:
            for _ in range(15):
                enough = len(followers[0].told) + rng.randint(0, 6)
                writing = [asyncio.create_task(write_at_random(database_url, rng, 10)) for _ in range(2)]
                for writer in writing:
                    writer.add_done_callback(lambda _: followers[0].look())
                # What they write may all be of the other group: then it's cut when they have written.
                await followers[0].until(
                    lambda: len(followers[0].told) >= enough or all(writer.done() for writer in writing)  # noqa: B023 - awaited here
                )
                proxy.cut()
                await asyncio.gather(*writing)
            for group in GROUPS:
                await put(sql, group, "i1", "the end")
            await until_numbered(sql)
            for group, item, follower in zip((*GROUPS, "general"), (None, None, None, "i1"), followers, strict=True):
                expected = await logged(sql, group, follower.live_from, item)
                await follower.until(lambda: len(follower.told) >= len(expected))  # noqa: B023 - awaited here
                assert follower.told == expected
                assert not any(isinstance(message, Reset) for message in follower.messages)


async def test_watch_ends_at_what_the_table_has(start_server: StartServer, database_url: str, sql: Sql) -> None:
    """A group of many pages under writes, cut off between its pages and later: the state is the table's."""
    await sql.execute(
        "insert into streams.chat_message (group_id, id, data) "
        "select 'general', n::text, jsonb_build_object('text', repeat('x', 500)) from generate_series(1, 5000) n"
    )
    server = await start_server()
    rng = random.Random(7)  # noqa: S311 - no secret
    async with before(server) as proxy, Client(f"ws://127.0.0.1:{proxy.port}", proxy=None) as client:
        pages = 0
        async for message in client.subscribe("chatMessage", "general"):
            pages += isinstance(message, Snapshot)
            if pages == 2:
                proxy.cut()
            if isinstance(message, Live):
                break
        assert pages > 5
        writing = asyncio.create_task(write_at_random(database_url, rng, 200))
        states = 0
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for items in client.watch("chatMessage", "general"):
                states += 1
                if states in (2, 5):
                    proxy.cut()
                if states < 6:
                    await put(sql, "general", f"after state {states}")  # so that another one comes
                if states == 6:
                    await writing
                    await put(sql, "general", "the end")
                if "the end" in items:
                    break
        rows = await sql.fetch("select id, data::text from streams.chat_message where group_id = 'general'")
        assert items == {row["id"]: json.loads(row["data"]) for row in rows}


async def test_a_position_that_was_kept_is_gone_on_from(start_server: StartServer, sql: Sql) -> None:
    """Another process, another day: since and epoch, as the subscription told them, bring what was missed."""
    server = await start_server()
    async with (
        Client(server.ws_url, proxy=None) as client,
        following(client.subscribe("chatMessage", "general")) as (follower,),
    ):
        await put(sql, "general", "a")
        await follower.until_told_of("a")
        position, epoch = follower.subscription.position, follower.subscription.epoch
    for id in "bcd":
        await put(sql, "general", id)
    async with Client(server.ws_url, proxy=None) as client:
        again = client.subscribe("chatMessage", "general", since=position, epoch=epoch)
        async with following(again) as (follower,):
            await follower.until_told_of("d")
    assert not any(isinstance(message, Snapshot | Reset) for message in follower.messages)
    assert [told[2] for told in follower.told] == ["b", "c", "d"]


async def test_a_slow_consumer_gets_everything(
    start_server: StartServer, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it does not read, the server's buffers fill and the log takes their place; then every commit comes once."""
    monkeypatch.setattr("tidelog.client.subscription.MESSAGES_MAX", 5)
    server = await start_server(is_patient=True)
    async with (
        asyncio.timeout(TIMEOUT_SECONDS),
        Client(server.ws_url, proxy=None) as client,
        client.subscribe("chatMessage", "general") as subscription,
    ):
        messages = aiter(subscription)
        while not isinstance(await anext(messages), Live):
            pass
        for number in range(100):
            await put(sql, "general", str(number), "x" * 300_000)
        commits = [await anext(messages) for _ in range(100)]
    ids = [change.id for commit in commits if isinstance(commit, Commit) for change in commit.changes]
    assert ids == [str(number) for number in range(100)]
