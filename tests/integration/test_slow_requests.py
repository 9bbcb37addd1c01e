"""Clients that send half of something, or without end, are let go of; those that are merely slow are served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from tests.conftest import StartServer, server_starter
from tests.faults.wire import Wire, handshake, text
from tests.harness import Databases, Server, StepsFolder, eventually, free_port, uvicorn_command
from tidelog.web.http_protocol import PIPELINE_MAX, BoundedFlow

STEP = """
import asyncio

config = {"type": "api", "name": "Echo", "method": "POST", "path": "/echo", "emits": []}


async def handler(req, context):
    await asyncio.sleep(req["body"].get("seconds", 0))
    text = "x" * req["body"].get("answer", 0)
    return {"status": 200, "body": {"size": len(req["body"].get("text", "")), **({"text": text} if text else {})}}
"""
HASTY = "tests.integration.hasty:HastyProtocol"
LOOKS_SECONDS = 6.0  # several of HastyProtocol's looks


@pytest.fixture(scope="module")
async def server(
    databases: Databases, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """One that looks after its connections often."""
    steps = StepsFolder(tmp_path_factory.mktemp("steps"))
    steps.write("echo_step.py", STEP)
    url = await databases.create(template=template_database)
    async with server_starter(url) as start:
        port = free_port()
        server = await start(steps_dir=steps.path, port=port, command=uvicorn_command(port, http=HASTY))
        yield server
        assert "Traceback" not in server.log()
        assert "never awaited" not in server.log()
    await databases.drop(url)


def post(body: bytes, *, size: int | None = None) -> bytes:
    """A request; `size` is what it says of its body."""
    headers = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {size or len(body)}"
    return f"POST /echo HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body


def is_open(server: Server, wire: Wire) -> bool:
    """Whether the server's process has the other end of this connection."""
    port = wire.writer.get_extra_info("sockname")[1]
    connections = psutil.Process(server.process.pid).net_connections("tcp")
    return any(one.raddr and one.raddr.port == port for one in connections)


async def answer(wire: Wire) -> Any:
    """The body of an answer."""
    head = await wire.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    (size,) = (line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    return json.loads(await wire.reader.readexactly(int(size)))


async def test_half_a_request_is_not_waited_for(server: Server) -> None:
    """Who has begun to say something is told; a browser that has opened a connection for later is not."""

    async def say(said: bytes, answered: bytes) -> None:
        async with Wire.open(server) as wire:
            await wire.send(said)
            rest = await wire.rest()
            assert rest.startswith(answered) and bool(rest) == bool(answered), (said, rest)

    async with asyncio.TaskGroup() as tasks:
        for said in b"", b"\r\n", post(b"{", size=1000):
            tasks.create_task(say(said, b""))
        for said in b"GET / HT", b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", handshake()[:-2]:
            tasks.create_task(say(said, b"HTTP/1.1 408 "))


async def test_a_head_that_drips_is_not_waited_for(server: Server) -> None:
    """However many headers it sends, it has to come to an end."""
    async with Wire.open(server) as wire:
        await wire.send(b"GET / HTTP/1.1\r\n")
        reading = asyncio.create_task(wire.rest())
        with suppress(ConnectionError):
            while not reading.done():
                await wire.send(b"x: y\r\n")
                await asyncio.sleep(0.05)
        assert (await reading).startswith(b"HTTP/1.1 408 ")


async def test_the_second_request_of_a_connection_is_not_waited_for_either(server: Server) -> None:
    async with Wire.open(server) as wire:
        await wire.send(post(b"{}"))
        assert await answer(wire) == {"size": 0}
        await wire.send(b"POST /echo HT")
        assert (await wire.rest()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("line", [b"x: " + b"y" * 97, b"x" * 100], ids=["headers", "one header"])
async def test_a_head_without_end_is_refused(server: Server, line: bytes) -> None:
    end = b"\r\n" if b":" in line else b""
    async with Wire.open(server) as wire:
        with suppress(ConnectionError):
            await wire.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
            for _ in range(100):  # a megabyte
                await wire.send((line + end) * 100)
        # The answer may be lost, as more came after it; and on a slow machine it may take too long.
        assert (await wire.rest())[:13] in (b"HTTP/1.1 431 ", b"HTTP/1.1 408 ", b"")


async def test_trailers_without_end_are_refused(server: Server) -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    async with Wire.open(server) as wire:
        with pytest.raises(ConnectionError):
            await wire.send(head)
            while True:
                await wire.send(b"x: y\r\n" * 100)
                await asyncio.sleep(0)


async def test_a_large_head_is_served(server: Server) -> None:
    """As large as others allow one to be."""
    async with Wire.open(server) as wire:
        cookie = b"cookie: " + b"c" * 30_000 + b"\r\nhost: localhost"
        data = post(b"{}").replace(b"host: localhost", cookie)
        for begin in range(0, len(data), 1000):
            await wire.send(data[begin : begin + 1000])
        assert await answer(wire) == {"size": 0}


async def test_a_slow_body_is_waited_for(server: Server) -> None:
    """It comes with some kilobytes a second, for longer than half a head would be waited for."""
    body = json.dumps({"text": "x" * 20_000}).encode()
    async with Wire.open(server) as wire:
        await wire.send(post(b"", size=len(body)))
        for begin in range(0, len(body), 500):
            await wire.send(body[begin : begin + 500])
            await asyncio.sleep(LOOKS_SECONDS * 500 / len(body))
        assert await answer(wire) == {"size": 20_000}


async def test_a_slow_answer_is_waited_for(server: Server) -> None:
    """Whoever waits for it has nothing to send, or only the beginning of what comes next."""
    slow = post(json.dumps({"seconds": LOOKS_SECONDS}).encode())
    async with Wire.open(server) as plain, Wire.open(server) as pipelining:
        await plain.send(slow)
        await pipelining.send(slow)
        await pipelining.send(post(b"{}")[:20])
        assert await answer(plain) == {"size": 0}
        assert await answer(pipelining) == {"size": 0}
        await pipelining.send(post(b"{}")[20:])
        assert await answer(pipelining) == {"size": 0}


async def test_an_empty_line_does_not_keep_a_connection(server: Server) -> None:
    """It begins no request, and uvicorn waits no longer for the next one."""
    async with Wire.open(server) as wire:
        await wire.send(post(b"{}"))
        assert await answer(wire) == {"size": 0}
        await wire.send(b"\r\n")
        assert await wire.rest() == b""


@pytest.mark.parametrize("last", ["keep-alive", "close"])
async def test_who_does_not_read_the_answer_is_not_waited_for(server: Server, last: str) -> None:
    """It is more than the system's buffers hold, and the descriptor and the answer are given back."""
    data = post(json.dumps({"answer": 20_000_000}).encode()).replace(
        b"host: localhost", b"host: localhost\r\nconnection: " + last.encode()
    )
    async with Wire.open(server) as wire:
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(data)
        await eventually(lambda: is_open(server, wire))
        await eventually(lambda: not is_open(server, wire))


async def test_a_slow_reader_is_waited_for(server: Server) -> None:
    """It takes longer than who reads nothing would be waited for."""
    size = 20_000_000
    async with Wire.open(server) as wire:
        await wire.send(post(json.dumps({"answer": size}).encode()))
        await wire.reader.readuntil(b"\r\n\r\n")
        read = 0
        while read < size:
            read += len(await wire.reader.readexactly(min(400_000, size + len('{"size":0,"text":""}') - read)))
            await asyncio.sleep(LOOKS_SECONDS * 400_000 / size)


def test_requests_that_wait_stop_the_reading() -> None:
    """Those that are sent without waiting for answers, each of which would have more of them read."""
    pipeline = [object()] * PIPELINE_MAX
    transport = Mock()
    flow = BoundedFlow(transport, pipeline, transport.resume_reading)
    flow.pause_reading()
    flow.resume_reading()
    assert flow.read_paused and not transport.resume_reading.called
    pipeline.pop()
    flow.resume_reading()
    assert not flow.read_paused and transport.resume_reading.called


async def test_a_socket_stays(server: Server) -> None:
    """What comes after the handshake may take as long as it likes."""
    async with Wire.upgraded(server, "tidelog.v1") as wire:
        await asyncio.sleep(LOOKS_SECONDS)
        await wire.send(text({"type": "subscribe", "id": "s", "stream": "nothing", "group": "g"}))
        _, payload = await wire.receive()
        assert json.loads(payload)["code"] == "STREAM_ACCESS_DENIED"


async def test_a_server_stops_beside_half_requests(start_server: StartServer) -> None:
    server = await start_server()
    async with Wire.open(server) as nothing, Wire.open(server) as half:
        await half.send(b"GET / HT")
        server.process.terminate()
        await eventually(lambda: server.process.poll() is not None)
        assert not await nothing.rest()
        assert not await half.rest()
