"""No one waits for anyone: a slow subscriber, a long transaction, two steps in one group, a noisy client."""

from __future__ import annotations

import asyncio
import random
import socket

from websockets.asyncio.client import connect

from tests.acceptance.conftest import Run, TwoServers
from tests.conftest import StartServer
from tests.harness import Databases, Gate, Server, Sql, StepsFolder, Subscriber, connect_sql, seen_of

NOTE_STREAM = 'config = {"name": "note", "schema": {}}'
PUT = """
insert into streams.note as item (group_id, id, data) values ($1, $2, $3)
on conflict (group_id, id) do update set data = excluded.data
"""
BULK_ROWS = 5_000

# A subscriber that reads nothing: what the machine's sockets hold (up to 4 MB sent, and little received) and the
# server's queue are full long before the last of its frames.
SLOW_FRAMES = 80
SLOW_FRAME_SIZE = 200_000
SMALL_BUFFER_BYTES = 4096

NONSENSE: tuple[str | bytes, ...] = (
    "", "{", "null", "[]", "{}", '{"type": "join"}', '{"type": "join", "data": 5}', '{"type": "jump", "data": {}}',
    '{"type": "join", "data": {"streamName": "note"}}', '{"type": "leave", "data": {"subscriptionId": "none"}}',
    '{"type": "leave", "data": {"streamName": "note", "groupId": "g", "subscriptionId": "none"}}',
    '{"type": "join", "data": {"streamName": "note", "groupId": 7, "subscriptionId": "s"}}',
    '{"type": "join", "data": {"streamName": "note", "groupId": "a\\u0000", "subscriptionId": "s"}}',
    '{"type": "join", "data": {"streamName": "no such", "groupId": "g", "subscriptionId": "s"}}',
    "[" * 50_000, b"\x00\xff", '"\\ud800"',
)  # fmt: skip


async def test_a_long_transaction_stalls_nobody(
    here: Server, databases: Databases, sql: Sql, other_sql: Sql, group: str, run: Run
) -> None:
    """Transactions that stay open, here with writes to the group and a snapshot, and in another database."""
    elsewhere = await connect_sql(databases.server_url)
    reader = await connect_sql(here.database_url)
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        async with (
            other_sql.transaction(),
            reader.transaction(isolation="repeatable_read", readonly=True),
            elsewhere.transaction(),
        ):
            await elsewhere.execute("select pg_current_xact_id()")
            await reader.execute("select count(*) from streams.note")
            await other_sql.execute(PUT, group, "long", {"n": 0})
            await other_sql.execute("select streams.send('note', $1, null, 'long', 'null')", group)
            for n in range(10):
                await run(["set", "note", group, "a", {"n": n}])
                assert (await subscriber.next())["event"]["data"]["n"] == n
            async with Subscriber.connect(here) as joiner:
                assert (await joiner.view("note", group)).items == view.items
        await subscriber.until_mark(sql, view)
    assert [kind for kind, _ in view.seen[-2:]] == ["create", "long"]
    await elsewhere.close()
    await reader.close()


async def test_an_open_bulk_load_stalls_nobody_and_arrives_whole(
    here: Server, sql: Sql, other_sql: Sql, group: str, run: Run
) -> None:
    """Thousands of rows wait for their COMMIT; others' commits pass them by, and then they come in a row."""
    async with Subscriber.connect(here) as subscriber:
        view = await subscriber.view("note", group)
        async with other_sql.transaction():
            await other_sql.execute(
                "insert into streams.note (group_id, id, data) select $1, 'bulk-' || n, '{}' "
                "from generate_series(1, $2::int) as n",
                group,
                BULK_ROWS,
            )
            for n in range(5):
                await run(["set", "note", group, "a", {"n": n}])
                assert (await subscriber.next())["event"]["data"]["n"] == n
        await run(["set", "note", group, "a", {"n": "behind"}])
        frames = await subscriber.until_mark(sql, view)
    assert len(frames) == BULK_ROWS + 1
    assert len(view.items) == BULK_ROWS + 1
    assert frames[-1]["event"]["data"] == {"id": "a", "n": "behind"}


async def test_two_steps_in_one_group_do_not_wait_for_each_other(
    two_servers: TwoServers, here: Server, sql: Sql, group: str, run: Run
) -> None:
    """One that has written to the group and still runs; another one writes to it, is answered and is seen."""
    async with Subscriber.connect(here) as subscriber, Gate.closed(two_servers.database_url) as gate:
        view = await subscriber.view("note", group)
        held = asyncio.create_task(
            run(
                ["set", "note", group, "held", {}],
                ["send", "note", group, None, "held", 1],
                ["sql", gate.pass_sql],
                ["set", "note", f"{group}, the other", "held", {}],
            )
        )
        await gate.reached()
        # Both groups, in the other order: no lock on a group could make a deadlock of it.
        answer = await run(["set", "note", f"{group}, the other", "a", {}], ["set", "note", group, "a", {}])
        assert answer.status_code == 200
        assert seen_of(await subscriber.next()) == ("create", {"id": "a"})
        assert not held.done()
        await gate.open()
        assert (await held).status_code == 200
        await subscriber.until_mark(sql, view)
    assert [kind for kind, _ in view.seen] == ["create", "create", "held"]


async def test_a_second_server_serves_while_the_first_is_busy(
    two_servers: TwoServers, there: Server, sql: Sql, group: str, run: Run
) -> None:
    """Steps of one process are seen on the other, and the other way round, though one holds a step open."""
    async with Gate.closed(two_servers.database_url) as gate, Subscriber.connect(there) as subscriber:
        view = await subscriber.view("note", group)
        held = asyncio.create_task(run(["sql", gate.pass_sql], ["set", "note", group, "held", {}]))
        await gate.reached()
        await sql.execute(PUT, group, "a", {})
        assert seen_of(await subscriber.next())[0] == "create"
        await gate.open()
        await held
        await subscriber.until_mark(sql, view)
    assert set(view.items) == {"a", "held"}


async def test_a_subscriber_that_does_not_read_delays_nobody_and_misses_nothing(
    start_server: StartServer, database_url: str, steps: StepsFolder, seed: int
) -> None:
    """Everybody else gets each change at once. When it reads again, it gets all of them, in order, each once."""
    steps.write("note_stream.py", NOTE_STREAM)
    server = await start_server(steps.path, is_patient=True, TIDELOG_SOCKET_BUFFER_BYTES_MAX=str(4 * SLOW_FRAME_SIZE))
    sql = await connect_sql(database_url)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    narrow.connect(("127.0.0.1", server.port))
    narrow.setblocking(False)
    async with (
        connect(server.ws_url, sock=narrow, max_size=None, max_queue=1, proxy=None, ping_interval=None) as slow,
        Subscriber.connect(server) as fast,
    ):
        slow_subscriber = Subscriber(slow)
        slow_view = await slow_subscriber.view("note", "g")
        await fast.view("note", "g")
        text = random.Random(seed).randbytes(SLOW_FRAME_SIZE // 2).hex()  # noqa: S311 - what can't be compressed
        for n in range(SLOW_FRAMES):
            await sql.execute(PUT, "g", "a", {"n": n, "text": text})
            assert (await fast.next())["event"]["data"]["n"] == n
        await slow_subscriber.until(lambda _: slow_view.items.get("a", {}).get("n") == SLOW_FRAMES - 1)
        assert [data["n"] for _, data in slow_view.seen] == list(range(SLOW_FRAMES))
    await sql.close()


async def test_a_client_that_talks_nonsense_hurts_nobody(here: Server, sql: Sql, group: str) -> None:
    """Each frame that makes no sense is answered with an error, and its connection and everyone else's go on."""
    async with Subscriber.connect(here) as noisy, Subscriber.connect(here) as other:
        views = [await noisy.view("note", group), await other.view("note", group)]
        for frame in NONSENSE:
            await noisy.socket.send(frame)
        last = await noisy.watch("note", f"{group}, a quiet one")
        answers = await noisy.until(lambda _: last.is_synced)
        await sql.execute(PUT, group, "a", {"n": 1})
        await noisy.until_mark(sql, views[0])
        await other.until_mark(sql, views[1])
    # All but the sync; and to leave what one hasn't joined is no error.
    assert [seen_of(frame)[0] for frame in answers[:-1]] == ["error"] * (len(NONSENSE) - 1)
    assert views[0].items == views[1].items == {"a": {"id": "a", "n": 1}}
