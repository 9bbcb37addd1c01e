"""A client that sends very many very small things keeps nobody waiting, and is closed if it goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from tests.conftest import StartServer, server_starter
from tests.faults.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    READ_TIMEOUT_SECONDS,
    TEXT,
    Wire,
    frame,
    request,
    text,
)
from tests.harness import Databases, Server, free_port, uvicorn_command

POLICY_VIOLATION = 1008
COUNT = 60_000  # of a flood's frames; two reads of the server's bring them all
LIGHT_COUNT = 3 * COUNT  # of those that are quickly done with: more than four reads
# What somebody else waits at best, of the time that the flood is worked on. One whose answers come behind all that a
# read brought waits for a quarter of it, or half.
SHARE_MAX = 1 / 8
# As many frames at once are no flood then.
ALLOWED = {"TIDELOG_SOCKET_FRAMES_PER_SECOND_MAX": "20000", "TIDELOG_SOCKET_JOINS_PER_SECOND_MAX": "20000"}
UNKNOWN = {"type": "subscribe", "id": "s", "stream": "nothing", "group": "g"}  # is answered at once, by an error
SUBSCRIBE = {"type": "subscribe", "id": "s", "stream": "chatMessage", "group": "g"}
UNSUBSCRIBE = {"type": "unsubscribe", "id": "s"}
END = UNKNOWN | {"id": "the end"}
ANSWER_TO_END = b'"subscription":"the end"}'
TAIL_BYTES = 1000
HALF = len(json.dumps(END)) // 2

FLOODS = {
    "empty binary messages": frame(BINARY) * COUNT + text(END),
    "empty objects": text("{}") * COUNT + text(END),
    "pings": frame(PING) * LIGHT_COUNT + text(END),
    "pongs": frame(PONG) * LIGHT_COUNT + text(END),
    "empty continuations": frame(TEXT, json.dumps(END)[:HALF].encode(), first=0)
    + frame(CONTINUATION, first=0) * LIGHT_COUNT
    + frame(CONTINUATION, json.dumps(END)[HALF:].encode()),
    "fragments of a byte": frame(TEXT, first=0)
    + b"".join(frame(CONTINUATION, b" ", first=0) for _ in range(COUNT))
    + frame(CONTINUATION, json.dumps(END).encode()),
    "subscriptions that end at once": (text(SUBSCRIBE) + text(UNSUBSCRIBE)) * (COUNT // 10) + text(END),
}


@pytest.fixture(scope="module")
async def server(databases: Databases, template_database: str) -> AsyncIterator[Server]:
    url = await databases.create(template=template_database)
    async with server_starter(url) as start:
        server = await start(is_patient=True, **ALLOWED)
        yield server
        assert "Traceback" not in server.log()
        assert "never awaited" not in server.log()
    await databases.drop(url)


@pytest.fixture(scope="module")
async def plain_server(databases: Databases, template_database: str) -> AsyncIterator[Server]:
    """One whose frames don't come from our own protocol."""
    url = await databases.create(template=template_database)
    async with server_starter(url) as start:
        port = free_port()
        server = await start(
            port=port, command=uvicorn_command(port, ws="websockets-sansio"), is_patient=True, **ALLOWED
        )
        yield server
        assert "Traceback" not in server.log()
    await databases.drop(url)


async def until_the_end(wire: Wire) -> None:
    """Read until the flood's last message is answered, with little work for each frame: others share this process."""
    read = bytearray()
    async with asyncio.timeout(READ_TIMEOUT_SECONDS):
        while ANSWER_TO_END not in read[-TAIL_BYTES:]:
            piece = await wire.reader.read(2**16)
            assert piece, read[-TAIL_BYTES:]
            read += piece
    frames = frames_of(bytes(read))
    assert {opcode for opcode, _ in frames} <= {TEXT, PONG, PING}
    texts = [json.loads(payload) for opcode, payload in frames if opcode == TEXT]
    assert [message.get("subscription") == END["id"] for message in texts].index(True) == len(texts) - 1


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of each frame of a server's."""
    frames, at = [], 0
    while at < len(data):
        first, size = data[at], data[at + 1]
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        frames.append((first & 0x0F, data[at : at + size]))
        at += size
    return frames


async def send_all(wire: Wire, flood: bytes) -> None:
    """Send it, and read until its last message is answered."""
    await asyncio.gather(wire.send(flood), until_the_end(wire))


async def assert_others_are_answered(server: Server, flood: Coroutine[Any, Any, None]) -> None:
    """A socket and an HTTP client get their answers while the flood is worked on, and not behind it."""
    began, waits = time.monotonic(), []
    health = request({"host": "localhost"}, "GET /health/live HTTP/1.1")
    async with Wire.upgraded(server, "tidelog.v1") as socket:
        over = asyncio.create_task(flood)
        while not over.done():
            asked = time.monotonic()
            await socket.send(text(UNKNOWN))
            await socket.receive()
            async with Wire.open(server) as http:  # a new one: the server ends those that are idle for seconds
                await http.send(health)
                assert (await http.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            waits.append(time.monotonic() - asked)
    await over
    assert min(waits) <= (time.monotonic() - began) * SHARE_MAX


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_frames_keeps_nobody_waiting(server: Server, flood: str) -> None:
    """While it is worked on others get their answers, again and again; and all of it is, in order."""
    async with Wire.upgraded(server, "tidelog.v1") as wire:
        await assert_others_are_answered(server, send_all(wire, FLOODS[flood]))


@pytest.mark.parametrize("flood", ["empty binary messages", "empty objects", "subscriptions that end at once"])
async def test_nor_does_a_flood_of_messages_on_another_server(plain_server: Server, flood: str) -> None:
    async with Wire.upgraded(plain_server, "tidelog.v1") as wire:
        await assert_others_are_answered(plain_server, send_all(wire, FLOODS[flood]))


async def test_many_that_flood_together_keep_nobody_waiting(server: Server) -> None:
    """A turn of the loop is bounded for the process, and not only for each of them."""

    async def one(all_sent: asyncio.Barrier) -> None:
        async with Wire.upgraded(server, "tidelog.v1") as wire:
            await all_sent.wait()
            await send_all(wire, text("{}") * (COUNT // 10) + text(END))

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(one(barrier))

    barrier = asyncio.Barrier(20)
    await assert_others_are_answered(server, all_of_them())


async def closing(wire: Wire) -> tuple[int, str]:
    """The close frame's code and reason; the connection has to end behind it."""
    while True:
        opcode, payload = await wire.receive()
        if opcode == CLOSE:
            with suppress(ConnectionError):
                await wire.send(frame(CLOSE, payload[:2]))
            assert await wire.rest() == b""
            return int.from_bytes(payload[:2], "big"), payload[2:].decode()


@pytest.mark.parametrize("is_plain", [False, True], ids=["our protocol", "another server"])
async def test_one_that_goes_on_flooding_is_closed_with_a_code(start_server: StartServer, *, is_plain: bool) -> None:
    """The reason names the bound; the log says it, but not each time; and it may connect again."""
    port = free_port()
    server = await start_server(
        port=port,
        command=uvicorn_command(port, ws="websockets-sansio") if is_plain else None,
        TIDELOG_SOCKET_FRAMES_PER_SECOND_MAX="7",
    )
    for _ in range(3):
        async with Wire.upgraded(server, "tidelog.v1") as wire:
            answered = asyncio.create_task(closing(wire))
            await wire.send(text("{}") * 20_000)
            code, reason = await answered
            assert code == POLICY_VIOLATION
            assert "7 frames a second" in reason
    told = [record for record in server.records() if "too many frames" in record["message"]]
    assert [record["level"] for record in told] == ["warning"]
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("kind", [PING, PONG, CONTINUATION], ids=["pings", "pongs", "continuations"])
async def test_frames_without_a_message_count_too(start_server: StartServer, kind: int) -> None:
    server = await start_server()
    async with Wire.upgraded(server, "tidelog.v1") as wire:
        answered = asyncio.create_task(closing(wire))
        if kind == CONTINUATION:
            await wire.send(frame(TEXT, first=0))
        await wire.send(frame(kind, first=0 if kind == CONTINUATION else 0x80) * 40_000)
        assert (await answered)[0] == POLICY_VIOLATION


@pytest.mark.parametrize("dialect", ["motia", "tidelog.v1"])
async def test_a_page_that_moves_all_its_subscriptions_at_once_is_no_flood(
    start_server: StartServer, dialect: str
) -> None:
    """It joins as many as it may have, leaves them for others, and leaves those for the first again."""
    server = await start_server()

    def say(kind: str, group: str, number: int) -> bytes:
        name = f"{group}-{number}"
        if dialect == "motia":
            names = {"streamName": "chatMessage", "groupId": group, "subscriptionId": name}
            return text({"type": "join" if kind == "subscribe" else "leave", "data": names})
        about = {"stream": "chatMessage", "group": group} if kind == "subscribe" else {}
        return text({"type": kind, "id": name, **about})

    names = range(1000)
    moves = [("subscribe", "a"), ("unsubscribe", "a"), ("subscribe", "b"), ("unsubscribe", "b"), ("subscribe", "a")]
    async with Wire.upgraded(server, None if dialect == "motia" else dialect) as wire:
        await wire.send(b"".join(say(kind, group, number) for kind, group in moves for number in names))
        last: dict[str, Any] = {}
        if dialect == "motia":
            await wire.send(
                text({"type": "join", "data": {"streamName": "end", "groupId": "g", "subscriptionId": "e"}})
            )
        else:
            await wire.send(text(END))
        while "STREAM_ACCESS_DENIED" not in json.dumps(last):
            opcode, payload = await wire.receive()
            assert opcode == TEXT, (opcode, payload)
            last = json.loads(payload)
