"""Set and deliver to 100 subscribers, durably: us beside Redis Streams and NATS. Shown, not aimed at.

They store less than we do (no SQL, no transactions over several items), and we are a layer above a database: it is
for orientation.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from tests.benchmarks.crowd import Crowd
from tests.benchmarks.ground import Ground
from tests.benchmarks.processes.broker_clients import BUCKET, FIELD, STREAM, nats_connect, nats_request, resp
from tests.benchmarks.programs import program
from tests.benchmarks.row import CannotRunError, Figures, Measure, Row, Side
from tests.benchmarks.rows.fan_out import Shape, delivering
from tests.benchmarks.serving import serving
from tests.benchmarks.text import item
from tests.harness import free_port

WRITERS = 16  # each sets the next item once the last was acknowledged
KEYS = 1000
HISTORY = 64  # NATS drops what a key had before these, delivered or not: as many as it allows
SHAPE = Shape(groups=1, sockets=100, updates=3000, per_turn=1)
SYNCED_VERSION = (2, 10)  # sync_interval came with it
START_TIMEOUT_SECONDS = 10

Set = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


@asynccontextmanager
async def tidelog(ground: Ground) -> AsyncIterator[Measure]:
    """Upserts by as many writers, to as many sockets.

    They read at once: a subscriber of Redis that doesn't would ask more seldom, and be answered with more.
    """
    async with (
        serving(ground) as server,
        delivering(ground, server, SHAPE, None, writers=WRITERS, at_once=True) as measure,
    ):
        yield measure


@asynccontextmanager
async def redis(ground: Ground) -> AsyncIterator[Measure]:
    """An item in a hash and an entry in a stream, in one transaction, flushed before it is acknowledged."""
    port, folder = free_port(), ground.new_folder("redis")
    command = [
        "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
        "--appendonly", "yes", "--appendfsync", "always",
    ]  # fmt: skip

    async def set_item(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, n: int) -> None:
        id, text = b"i%d" % (n % KEYS), item(n).encode()
        writer.write(
            resp(b"MULTI") + resp(b"HSET", b"g", id, text) + resp(b"XADD", STREAM, b"*", FIELD, text) + resp(b"EXEC")
        )
        # +OK, +QUEUED twice, and the list of two answers: a number, and the entry's id in two lines.
        lines = [await reader.readline() for _ in range(7)]
        if lines[3] != b"*2\r\n":
            raise ConnectionError(f"redis answered {lines}")

    async with _broker(command, port, folder), _crowd("open_redis", port, ground) as people:
        yield partial(_measure, ground, port, people, set_item, itertools.count(1))


@asynccontextmanager
async def nats(ground: Ground, *, synced: bool) -> AsyncIterator[Measure]:
    """A key-value bucket in a file, each subscriber with a consumer of its own."""
    port, folder = free_port(), ground.new_folder("nats")
    command = ["nats-server", "--config", str(folder / "nats.conf")]
    if synced:
        _check_synced()
    sync = "sync_interval: always" if synced else ""
    (folder / "nats.conf").write_text(
        f'port: {port}\nhost: 127.0.0.1\njetstream {{ store_dir: "{folder}/store"\n {sync} }}\n'
    )

    async def put(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, n: int) -> None:
        text, inbox = item(n), f"_INBOX.w{n % WRITERS}"
        writer.write(f"PUB $KV.{BUCKET}.i{n % KEYS} {inbox} {len(text)}\r\n{text}\r\n".encode())
        head = await reader.readline()
        while not head.startswith(b"MSG"):
            if head == b"PING\r\n":
                writer.write(b"PONG\r\n")
            head = await reader.readline()
        answer = await reader.readline()
        if b'"error"' in answer:
            raise ConnectionError(f"NATS answered {answer!r}")

    async with _broker(command, port, folder):
        await asyncio.to_thread(_make_bucket, port)
        async with _crowd("open_nats", port, ground) as people:
            yield partial(_measure, ground, port, people, put, itertools.count(1), is_nats=True)


async def _measure(
    ground: Ground, port: int, people: Crowd, set_one: Set, rounds: itertools.count[int], *, is_nats: bool = False
) -> Figures:
    updates = SHAPE.updates_of(ground)
    first = next(rounds) * updates
    await people.expect(updates, at_once=True)
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(WRITERS)]
    if is_nats:
        for one, (reader, writer) in enumerate(connections):
            await reader.readline()  # INFO
            writer.write(f'CONNECT {{"verbose":false,"pedantic":false}}\r\nSUB _INBOX.w{one} 1\r\n'.encode())

    async def write(one: int) -> None:
        for n in range(first, first + updates):
            if n % WRITERS == one:
                await set_one(*connections[one], n)

    started_ns = time.perf_counter_ns()
    await asyncio.gather(*map(write, range(WRITERS)))
    arrival = await people.arrival()
    for _, writer in connections:
        writer.close()
    ((last, sockets),) = arrival.lasts.items()  # the writers overlap, but all subscribers end on the same item
    assert first <= last < first + updates and sockets == people.sockets
    seconds = (arrival.last_ns - started_ns) / 1e9
    return {"sets_per_second": updates / seconds, "deliveries_per_second": updates * sockets / seconds}


@asynccontextmanager
async def _broker(command: list[str], port: int, folder: Path) -> AsyncIterator[None]:
    if shutil.which(command[0]) is None:
        raise CannotRunError(f"{command[0]} is not installed")
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=folder)
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await _wait_for_port(process, port, folder)
            yield
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def _wait_for_port(process: asyncio.subprocess.Process, port: int, folder: Path) -> None:
    while True:
        if process.returncode is not None:
            raise RuntimeError(f"it ended with {process.returncode}: {(folder / 'log').read_text()[-500:]}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _crowd(do: str, port: int, ground: Ground) -> AsyncIterator[Crowd]:
    async with program(sys.executable, "-m", "tests.benchmarks.processes.crowd") as running:
        clients = SHAPE.sockets_of(ground)
        await running.ask(do=do, port=port, clients=clients)
        yield Crowd(running, clients)


def _check_synced() -> None:
    if shutil.which("nats-server") is None:
        raise CannotRunError("nats-server is not installed")
    done = subprocess.run(["nats-server", "--version"], capture_output=True, text=True, timeout=10)
    version = re.search(r"(\d+)\.(\d+)", done.stdout + done.stderr)
    if version and tuple(map(int, version.groups())) < SYNCED_VERSION:
        raise CannotRunError(f"this nats-server ({version.group()}) can't flush every write, 2.10 and later can")


def _make_bucket(port: int) -> None:
    """What the clients' `create_key_value` asks for."""
    stream = {
        "name": f"KV_{BUCKET}",
        "subjects": [f"$KV.{BUCKET}.>"],
        "max_msgs_per_subject": HISTORY,
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": 1,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }
    with nats_connect(port) as connected:
        nats_request(connected, f"$JS.API.STREAM.CREATE.KV_{BUCKET}", stream)


OURS = Side("tidelog, 16 writers", tidelog)


def _row(name: str, what: str, side: Side) -> Row:
    return Row(name, f"set and delivery to 100 subscribers, 16 writers, beside {what}", OURS, side, "sets_per_second")


ROWS = (
    _row("brokers-redis", "Redis Streams with appendfsync always", Side("Redis Streams", redis)),
    _row("brokers-nats", "NATS KV that flushes every write", Side("NATS KV", partial(nats, synced=True))),
    _row(
        "brokers-nats-unsynced",
        "NATS KV that flushes every 2 minutes, which is not durable",
        Side("NATS KV, not flushed", partial(nats, synced=False)),
    ),
)
