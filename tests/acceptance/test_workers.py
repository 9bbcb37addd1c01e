"""Several server processes behind one address, and replacing them one after the other."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Any

import asyncpg
import psutil
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.acceptance.test_tidelog_v1 import STREAM, peer, put
from tests.conftest import StartServer
from tests.harness import Server, StepsFolder, eventually, migrate

SERVICE_RESTART = 1012  # RFC 6455's registry
SUBSCRIBERS = 6


async def test_a_rolling_restart_loses_and_repeats_nothing(
    start_server: StartServer, database_url: str, steps: StepsFolder
) -> None:
    """SIGHUP replaces both processes under writes; every subscriber is told to come back, and misses nothing."""
    steps.write("alpha_stream.py", STREAM.format(name="alpha"))
    await asyncio.to_thread(migrate, database_url, steps.path)
    server = await start_server(steps_dir=steps.path, command=["-m", "tidelog.cli", "serve"], TIDELOG_WORKERS="2")
    parent = psutil.Process(server.process.pid)
    await eventually(lambda: "Tidelog serves" in server.log())
    await eventually(lambda: len(workers(parent)) == 2)
    first = workers(parent)
    stop = asyncio.Event()

    async def write() -> int:
        connection = await asyncpg.connect(database_url)
        number = 0
        while not stop.is_set():
            await put(connection, "g", "a", number)
            number += 1
        await put(connection, "g", "the end", -1)
        await connection.close()
        return number

    told = asyncio.Semaphore(0)
    subscribers = [asyncio.create_task(follow(server, told)) for _ in range(SUBSCRIBERS)]
    writer = asyncio.create_task(write())
    for _ in subscribers:
        await told.acquire()
    server.process.send_signal(signal.SIGHUP)
    await eventually(lambda: workers(parent).isdisjoint(first) and len(workers(parent)) == 2)
    stop.set()
    written = await writer
    for subscriber in subscribers:
        numbers, codes = await subscriber
        # A snapshot shows the newest number only; from there each one comes, once.
        assert numbers == list(range(numbers[0], written))
        assert set(codes) == {SERVICE_RESTART}


async def test_a_worker_that_was_killed_is_told_of_and_replaced(start_server: StartServer) -> None:
    """In one line: which, by what, and what was done. The other goes on."""
    server = await start_server(command=["-m", "tidelog.cli", "serve"], TIDELOG_WORKERS="2")
    parent = psutil.Process(server.process.pid)
    await eventually(lambda: "Tidelog serves" in server.log())
    first = await eventually(lambda: len(workers(parent)) == 2 and workers(parent))
    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    (record,) = await eventually(lambda: server.records("tidelog.serve"))
    now = await eventually(lambda: len(workers(parent)) == 2 and workers(parent))
    assert (first & now, len(now - first)) == (first - {victim}, 1)
    (new,) = now - first
    assert record["message"] == (
        f"worker {victim} was killed by SIGKILL: worker {new} was started in its place, and its clients come back"
    )


def workers(parent: psutil.Process) -> set[int]:
    """Pids of the processes that serve; multiprocessing has one of its own beside them."""
    pids = set()
    for child in parent.children():
        with suppress(psutil.Error):  # it ended meanwhile
            if "spawn_main" in " ".join(child.cmdline()):
                pids.add(child.pid)
    return pids


async def follow(server: Server, told_first: asyncio.Semaphore) -> tuple[list[int], list[int]]:
    """The numbers that one subscriber was told, and the codes with which it was closed."""
    numbers: list[int] = []
    codes: list[int] = []
    since: dict[str, Any] = {}
    while True:
        try:
            async with peer(server) as one:
                await one.subscribe("s", "g", **since)
                while True:
                    message = await one.next()
                    told = [item["data"]["n"] for item in message.get("items", ())]
                    told += [change["data"]["n"] for change in message.get("changes", ())]
                    if told and not numbers:
                        told_first.release()
                    numbers += [n for n in told if n >= 0]
                    since |= {key: message[key] for key in ("position", "epoch") if key in message}
                    since["since"] = since.pop("position")
                    if -1 in told:
                        return numbers, codes
        except ConnectionClosed as closed:
            codes.append(closed.rcvd.code if closed.rcvd else 0)
        except (OSError, InvalidHandshake):
            pass  # the old process had it in its queue when it ended
