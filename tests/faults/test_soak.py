"""An hour's coming and going in a minute: nothing of those who left stays in the server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psutil
import pytest

from tests.conftest import StartServer
from tests.faults.wire import CLOSE, READ_TIMEOUT_SECONDS, Wire, frame, text
from tests.harness import Server, StepsFolder, eventually, free_port, uvicorn_command

CLIENTS_AT_ONCE = 24
VISITS_IN_A_ROUND = 5000
GROUPS = 8
EVENT_EVERY = 5  # writes
# Two rounds are the same work, so a leak of what a visit takes (some 20 KB) would be 60 MB in the second.
RSS_GROWTH_MAX_BYTES = 12 * 2**20
FILES_MORE_MAX = 2  # sockets to the database and spools of snapshots are files, too
STREAM = 'config = {"name": "alpha", "schema": {"type": "object"}, "baseConfig": {"storageType": "default"}}'


def subscribe(dialect: str, name: str, group: str) -> bytes:
    if dialect == "motia":
        return text({"type": "join", "data": {"streamName": "alpha", "groupId": group, "subscriptionId": name}})
    return text({"type": "subscribe", "id": name, "stream": "alpha", "group": group})


def unsubscribe(dialect: str, name: str, group: str) -> bytes:
    if dialect == "motia":
        return text({"type": "leave", "data": {"streamName": "alpha", "groupId": group, "subscriptionId": name}})
    return text({"type": "unsubscribe", "id": name})


async def visit(server: Server, chance: random.Random) -> None:
    """Come, subscribe, perhaps leave some, perhaps read; and go in one of the ways there are."""
    dialect = chance.choice(["motia", "tidelog"])
    async with Wire.upgraded(server, "tidelog.v1" if dialect == "tidelog" else None) as wire:
        names = [(f"s{number}", f"g{chance.randrange(GROUPS)}") for number in range(chance.randrange(1, 12))]
        for name, group in names:
            wire.writer.write(subscribe(dialect, name, group))
        for _ in range(chance.choice([0, 1, 1, 10])):
            await wire.receive()
        for name, group in chance.sample(names, chance.randrange(len(names))):
            wire.writer.write(unsubscribe(dialect, name, group))
        match chance.randrange(5):
            case 0:  # with a word
                await wire.send(frame(CLOSE, b"\x03\xe8"))
                assert await wire.closing_code() == 1000
            case 1:  # with a word, and not waiting for the answer
                await wire.send(frame(CLOSE, b"\x03\xe8"))
            case 2:  # half: it says no more, and listens until the server ends the connection
                wire.writer.write_eof()
                await wire.rest()
            case 3:  # in the middle of a word
                await wire.send(subscribe(dialect, "half", "g0")[:-10])
            case _:  # dropped
                pass


async def play_dead(server: Server, end: asyncio.Event) -> None:
    """Subscribe, and then neither read nor answer any more: as good as a cable that was pulled.

    Its system must not take much for it, or it would be alive for as long as there is room.
    """
    async with Wire.upgraded(server, "tidelog.v1", is_narrow=True) as wire:
        await wire.send(subscribe("tidelog", "dead", "g0"))
        await wire.receive()
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await end.wait()


@asynccontextmanager
async def writes(server: Server, round_of: str) -> AsyncIterator[None]:
    """Writes and events all the while."""
    stop = asyncio.Event()

    async def write() -> None:
        connection = await asyncpg.connect(server.database_url)
        number = 0
        while not stop.is_set():
            number += 1
            await connection.execute(
                "insert into streams.alpha (group_id, id, data) values ($1, $2, jsonb_build_object('n', $3::int)) "
                "on conflict (group_id, id) do update set data = excluded.data",
                f"g{number % GROUPS}",
                f"i{number % 50}",
                number,
            )
            if number % EVENT_EVERY == 0:
                await connection.execute("select streams.send('alpha', 'g1', null, $1, '{}')", round_of)
            await asyncio.sleep(0.002)
        await connection.close()

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        stop.set()
        await writing


async def churn(server: Server, seed: str) -> None:
    """A round: all the visits, under writes, and a few connections that die at its beginning."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    visits = iter(range(VISITS_IN_A_ROUND))
    gone = asyncio.Event()

    async def come_and_go() -> None:
        for _ in visits:
            await visit(server, chance)

    async with writes(server, seed), asyncio.TaskGroup() as tasks:
        dead = [tasks.create_task(play_dead(server, gone)) for _ in range(10)]
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS_AT_ONCE):
                clients.create_task(come_and_go())
        # The server lets go of the dead by itself: they are still here.
        await eventually(lambda: not connections(server), READ_TIMEOUT_SECONDS * 2)
        assert not any(one.done() for one in dead)
        gone.set()


def connections(server: Server) -> int:
    """The sockets of the server's port that are open in its process, without the one that listens."""
    open_ones = psutil.Process(server.process.pid).net_connections("tcp")
    return sum(one.laddr.port == server.port and bool(one.raddr) for one in open_ones)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nothing_of_those_who_left_stays(start_server: StartServer, steps: StepsFolder, seed: int) -> None:
    """After equal rounds of churn: no connection, no file, no more memory than before; events are forgotten."""
    steps.write("alpha_stream.py", STREAM)
    port = free_port()
    command = [*uvicorn_command(port), "--ws-ping-interval", "5", "--ws-ping-timeout", "10"]  # a visit takes less
    server: Server = await start_server(steps_dir=steps.path, port=port, command=command)
    process = psutil.Process(server.process.pid)
    sql = await asyncpg.connect(server.database_url)
    await churn(server, f"{seed} warm-up")
    memory, files = process.memory_info().rss, process.num_fds()
    await churn(server, f"{seed} second")
    await eventually(lambda: process.num_fds() <= files + FILES_MORE_MAX)
    await eventually(lambda: nothing_waits(sql))
    assert process.memory_info().rss < memory + RSS_GROWTH_MAX_BYTES
    assert await sql.fetchval("select count(*) from streams.event") > 0
    await sql.execute("update streams.commit set at = at - interval '1 hour'")  # as if it were an hour later
    await eventually(lambda: no_event_is_left(sql))
    await sql.close()
    assert "Traceback" not in server.log(), server.log()[:4000]
    assert "never awaited" not in server.log(), server.log()[:4000]


async def nothing_waits(sql: asyncpg.Connection[Any]) -> bool:
    """No session of the server's is at work or in a transaction."""
    busy = "select count(*) from pg_stat_activity where application_name like 'tidelog archive%' and state <> 'idle'"
    return not await sql.fetchval(f"{busy} and datname = current_database()")


async def no_event_is_left(sql: asyncpg.Connection[Any]) -> bool:
    return not await sql.fetchval("select count(*) from streams.event")
