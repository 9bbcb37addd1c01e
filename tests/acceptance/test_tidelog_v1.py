"""The dialect `tidelog.v1`: snapshots with positions, whole commits, resume."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from tests.conftest import StartServer
from tests.harness import Server, Sql, StepsFolder, eventually, until_numbered
from tests.peer import fold, peer

OTHER_EPOCH = "00000000-0000-0000-0000-000000000000"

STREAM = """
config = {{
    "name": "{name}",
    "schema": {{"type": "object", "properties": {{"n": {{"type": "integer"}}}}}},
    "baseConfig": {{"storageType": "default"}},
}}
"""


@pytest.fixture
async def server(start_server: StartServer, steps: StepsFolder) -> Server:
    for name in ("alpha", "beta"):
        steps.write(f"{name}_stream.py", STREAM.format(name=name))
    started: Server = await start_server(steps_dir=steps.path, is_patient=True)
    return started


@pytest.fixture
async def sql(server: Server) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(server.database_url)
    yield connection
    await connection.close()


async def put(sql: asyncpg.Connection[Any], group: str, id: str, n: int, stream: str = "alpha") -> None:
    await sql.execute(
        f"insert into streams.{stream} (group_id, id, data) values ($1, $2, jsonb_build_object('n', $3::int)) "
        "on conflict (group_id, id) do update set data = excluded.data",
        group,
        id,
        n,
    )


async def test_a_snapshot_then_whole_commits(server: Server, sql: Sql) -> None:
    """The snapshot is complete at its position; a commit is one message with all that was subscribed to."""
    await put(sql, "g", "a", 1)
    async with peer(server) as one:
        await one.subscribe("s1", "g")
        snapshot, live = await one.until("live")
        assert [item["data"] for item in snapshot["items"]] == [{"id": "a", "n": 1}]
        assert (snapshot["more"], live["position"]) == (False, snapshot["position"])
        await one.subscribe("s2", "h", stream="beta")
        await one.until("live")
        async with sql.transaction():
            await put(sql, "g", "a", 2)
            await put(sql, "h", "b", 3, "beta")
            await sql.execute("delete from streams.alpha where id = 'a'")
            await put(sql, "not subscribed", "c", 4)
        commit = await one.next()
        assert commit["type"] == "commit" and commit["position"] > live["position"]
        assert sorted(commit["subscriptions"]) == ["s1", "s2"]
        told = [(change["stream"], change["op"], change["id"], change["data"]) for change in commit["changes"]]
        assert told == [("beta", "create", "b", {"id": "b", "n": 3}), ("alpha", "delete", "a", {"id": "a", "n": 2})]


async def test_an_item_and_its_group_on_one_connection(server: Server, sql: Sql) -> None:
    """A commit says which of the subscriptions it is for; a missing item is an empty snapshot."""
    async with peer(server) as one:
        await one.subscribe("group", "g")
        await one.until("live")
        await one.subscribe("item", "g", item="a")
        snapshot, _ = await one.until("live")
        assert snapshot["items"] == []
        await put(sql, "g", "a", 1)
        assert (await one.next())["subscriptions"] == ["group", "item"]
        await put(sql, "g", "b", 1)
        assert (await one.next())["subscriptions"] == ["group"]
        await one.say("unsubscribe", id="group")
        await one.subscribe("marker", "g", item="b")
        await one.until("live")
        await put(sql, "g", "a", 2)
        assert (await one.next())["subscriptions"] == ["item"]


async def test_resume_gives_exactly_what_was_missed(server: Server, sql: Sql) -> None:
    """With position and epoch: the missed commits, in order, and then live."""
    async with peer(server) as one:
        await one.subscribe("s", "g")
        _, live = await one.until("live")
    for n in range(5):
        await put(sql, "g", "a", n)
        await put(sql, "other", "x", n)
    await until_numbered(sql)
    async with peer(server) as two:
        await two.subscribe("s", "g", since=live["position"], epoch=live["epoch"])
        *missed, caught_up = await two.until("live")
        assert [change["data"]["n"] for commit in missed for change in commit["changes"]] == [0, 1, 2, 3, 4]
        assert caught_up["position"] >= missed[-1]["position"]
        await put(sql, "g", "a", 5)
        assert (await two.next())["changes"][0]["data"]["n"] == 5


async def test_a_page_of_many_subscriptions_comes_back(server: Server, sql: Sql) -> None:
    """Each with a position of its own, more of them than the server reads at once: all get what they missed."""
    async with peer(server) as one:
        await one.subscribe("s", "g")
        _, live = await one.until("live")
    for n in range(20):
        async with sql.transaction():
            await put(sql, "g", f"i{n % 3}", n)
            await put(sql, f"g{n}", "a", n)
    await until_numbered(sql)
    async with peer(server) as two:
        names = [f"s{n}" for n in range(400)]
        for n, name in enumerate(names):
            since = live["position"] + n % 4
            await two.subscribe(name, "g" if n % 2 else f"g{n % 20}", since=since, epoch=live["epoch"])
        messages = []
        while sum(message["type"] == "live" for message in messages) < len(names):
            messages.append(await two.next())
        told: dict[str, list[int]] = {name: [] for name in names}
        for message in messages:
            if message["type"] == "commit":
                for name in message["subscriptions"]:
                    told[name].append(message["position"] - live["position"] - 1)
        for n, name in enumerate(names):  # in their order, each once, however many went on together
            assert told[name] == [number for number in range(n % 4, 20) if n % 2 or n % 20 == number]
        await put(sql, "g", "a", 20)
        assert len((await two.next())["subscriptions"]) == 200


@pytest.mark.parametrize(
    ("since", "epoch", "reason"), [(10**9, None, "ahead"), (0, OTHER_EPOCH, "epoch")], ids=["ahead", "epoch"]
)
async def test_a_position_that_is_not_of_this_feed_is_reset(
    server: Server, sql: Sql, since: int, epoch: str | None, reason: str
) -> None:
    """Ahead of the head, or of another epoch: a reset that says so, and a snapshot."""
    await put(sql, "g", "a", 1)
    async with peer(server) as one:
        await one.subscribe("first", "g")
        _, live = await one.until("live")
        await one.subscribe("s", "g", since=since, epoch=epoch or live["epoch"])
        reset, snapshot, _ = await one.until("live")
        assert (reset["type"], reset["subscription"], reset["reason"]) == ("reset", "s", reason)
        assert snapshot["position"] >= reset["position"]
        assert fold([reset, snapshot]) == {"a": {"id": "a", "n": 1}}


async def test_a_commit_too_big_to_be_carried_is_a_reset(server: Server, sql: Sql) -> None:
    """Over the size that one message may have: reset, and the state after it; the next commit comes live."""
    async with peer(server) as one:
        await one.subscribe("s", "g")
        _, live = await one.until("live")
        fill = "insert into streams.alpha (group_id, id, data) select 'g', i::text, jsonb_build_object('pad', "
        await sql.execute(fill + "repeat('x', 1000000)) from generate_series(1, 20) i")
        reset, *snapshot, _ = await one.until("live")
        assert (reset["type"], reset["reason"]) == ("reset", "too_large")
        assert len(fold(snapshot)) == 20
        await put(sql, "g", "a", 1)
        assert (await one.next())["type"] == "commit"
    async with peer(server) as two:
        await two.subscribe("s", "g", since=live["position"], epoch=live["epoch"])
        reset, *snapshot, _ = await two.until("live")
        assert (reset["type"], reset["reason"]) == ("reset", "too_large")
        assert len(fold(snapshot)) == 21


async def test_pages_and_what_follows_are_exact_under_writes(server: Server, sql: Sql) -> None:
    """A group of many pages, joined while it is written to: at every end, the fold equals the table."""
    await sql.execute(
        "insert into streams.alpha (group_id, id, data) "
        "select 'g', i::text, jsonb_build_object('n', i, 'pad', repeat('x', 200)) from generate_series(1, 5000) i"
    )
    stop = asyncio.Event()

    async def write() -> None:
        connection = await asyncpg.connect(server.database_url)
        number = 0
        while not stop.is_set():
            number += 1
            await put(connection, "g", str(number % 50), number)
            await connection.execute("delete from streams.alpha where id = $1", str(100 + number % 40))
            await put(connection, "g", str(100 + number % 30), -number)
        await connection.close()

    writers = [asyncio.create_task(write()) for _ in range(3)]

    async def join() -> list[dict[str, Any]]:
        async with peer(server) as one:
            await one.subscribe("s", "g")
            messages = await one.until("live")
            assert sum(message["type"] == "snapshot" for message in messages) > 5
            joined.release()
            while messages[-1].get("changes", [{}])[-1].get("id") != "the end":
                messages.append(await one.next())
            return messages

    joined = asyncio.Semaphore(0)
    joins = [asyncio.create_task(join()) for _ in range(6)]
    for _ in joins:
        await joined.acquire()
    stop.set()
    await asyncio.gather(*writers)
    await put(sql, "g", "the end", 0)
    rows = await sql.fetch("select id, data::text as data from streams.alpha where group_id = 'g'")
    expected = {row["id"]: json.loads(row["data"]) for row in rows}
    for messages in await asyncio.gather(*joins):
        positions = [message["position"] for message in messages if message["type"] == "commit"]
        assert positions == sorted(set(positions))
        assert fold(messages) == expected


async def test_what_fell_behind_is_not_overtaken_on_its_connection(server: Server, sql: Sql) -> None:
    """Positions hold for all live subscriptions: a new one goes live only when the others are at the present again."""
    async with peer(server) as one:
        await one.subscribe("busy", "g")
        await one.until("live")
        one.socket.transport.pause_reading()
        for n in range(60):
            await put_large(sql, n)
        await one.subscribe("quiet", "h")
        one.socket.transport.resume_reading()
        messages = await one.until("live")
        await put(sql, "h", "b", 1)
        messages += [await one.next()]
        told = [message["position"] for message in messages if message["type"] == "commit"]
        assert messages[-1]["subscriptions"] == ["quiet"]
        assert len(told) == 61 and told == sorted(told)


async def test_a_reset_comes_before_anything_that_is_newer(server: Server, sql: Sql) -> None:
    """A live subscription that can't be told of a commit learns so at once, not when its snapshot is there."""
    async with peer(server) as one:
        for name, group in (("a", "g"), ("b", "h")):
            await one.subscribe(name, group)
            await one.until("live")
        fill = "insert into streams.alpha (group_id, id, data) select 'g', i::text, jsonb_build_object('pad', "
        await sql.execute(fill + "repeat('x', 1000000)) from generate_series(1, 20) i")
        for n in range(20):
            await put(sql, "h", "x", n)
        messages = [await one.next()]
        while messages[-1].get("changes", [{}])[0].get("data") != {"id": "x", "n": 19}:
            messages.append(await one.next())
        assert messages[0]["type"] == "reset"
        assert [message["type"] for message in messages].count("commit") == 20


async def put_large(sql: asyncpg.Connection[Any], n: int) -> None:
    await sql.execute(
        "insert into streams.alpha (group_id, id, data) "
        "values ('g', $1::int::text, jsonb_build_object('n', $1::int, 'pad', repeat('x', 300000)))",
        n,
    )


async def test_one_that_does_not_read_reads_on_from_the_log(server: Server, sql: Sql) -> None:
    """Far more than its buffer is written while it doesn't read; then it gets every commit once, in order."""
    async with peer(server) as one:
        await one.subscribe("s", "g")
        await one.until("live")
        one.socket.transport.pause_reading()
        for n in range(60):
            await put_large(sql, n)
        async with peer(server) as marker:
            await marker.subscribe("s", "g", item="59")
            await marker.until("live")
        one.socket.transport.resume_reading()
        numbers = [(await one.next())["changes"][0]["data"]["n"] for _ in range(60)]
        assert numbers == list(range(60))
        await put(sql, "g", "live", 60)
        assert (await one.next())["changes"][0]["data"]["n"] == 60


@pytest.mark.slow  # it takes the server ten seconds to let go of one that doesn't take the close frame either
async def test_one_that_never_reads_is_closed(start_server: StartServer, steps: StepsFolder) -> None:
    """After the drain timeout it is closed, and then let go of: nothing of it stays."""
    steps.write("alpha_stream.py", STREAM.format(name="alpha"))
    server = await start_server(steps_dir=steps.path, TIDELOG_SOCKET_DRAIN_TIMEOUT_SECONDS="0.2")
    connection = await asyncpg.connect(server.database_url)
    async with peer(server) as one:
        await one.subscribe("s", "g")
        await one.until("live")
        one.socket.transport.pause_reading()
        port = one.socket.local_address[1]
        fill = "insert into streams.alpha (group_id, id, data) values ('g', $1, jsonb_build_object('pad', "
        for n in range(60):
            await connection.execute(fill + "repeat('x', 300000)))", str(n))
        process = psutil.Process(server.process.pid)
        await eventually(
            lambda: not any(open.raddr and open.raddr.port == port for open in process.net_connections("tcp"))
        )
        one.socket.transport.resume_reading()
        with pytest.raises(ConnectionClosed):
            while True:
                await one.next()
    await connection.close()


async def test_what_is_wrong_is_told_and_the_connection_goes_on(server: Server, sql: Sql) -> None:
    """Each malformed message gets an error with a stable code."""
    wrong = [
        "not json", "[]", "{}", '{"type":"join"}', '{"type":"subscribe"}', "[" * 5000,
        '{"type":"subscribe","id":"s","stream":"alpha","group":""}',
        '{"type":"subscribe","id":"s","stream":"alpha","group":"\\ud800"}',
        '{"type":"subscribe","id":"s","stream":"alpha","group":"g","since":-1,"epoch":"e"}',
        '{"type":"subscribe","id":"s","stream":"alpha","group":"g","since":1}',
        '{"type":"subscribe","id":"s","stream":"alpha","group":"g","cheat":1}',
    ]  # fmt: skip
    async with peer(server) as one:
        for text in wrong:
            await one.socket.send(text)
            error = await one.next()
            assert (error["type"], error["code"]) == ("error", "message_invalid"), text
        await one.socket.send(b"\x00\x01")
        assert (await one.next())["code"] == "message_invalid"
        await one.subscribe("s", "g", stream="unknown")
        denied = await one.next()
        assert (denied["code"], denied["subscription"]) == ("STREAM_ACCESS_DENIED", "s")
        await one.subscribe("s", "g")
        await one.until("live")
        await one.subscribe("s", "g")
        assert (await one.next())["code"] == "subscription_exists"
        await put(sql, "g", "a", 1)
        assert (await one.next())["type"] == "commit"


async def test_an_event_comes_behind_its_commits_changes(server: Server, sql: Sql) -> None:
    """A message of its own, at the commit's position; an item's event reaches the item and the group."""
    async with peer(server) as one:
        await one.subscribe("group", "g")
        await one.until("live")
        await one.subscribe("item", "g", item="a")
        await one.until("live")
        async with sql.transaction():
            await sql.execute("select streams.send('alpha', 'g', null, 'typing', '{\"by\": \"ada\"}')")
            await put(sql, "g", "b", 1)
            await sql.execute("select streams.send('alpha', 'g', 'a', 'seen', '1')")
        commit, typing, seen = [await one.next() for _ in range(3)]
        assert commit["type"] == "commit"
        assert {typing["position"], seen["position"]} == {commit["position"]}
        assert (typing["subscriptions"], typing["event"]) == (["group"], {"type": "typing", "data": {"by": "ada"}})
        assert (seen["subscriptions"], seen["id"], seen["event"]["data"]) == (["group", "item"], "a", 1)
