"""A client that takes nothing any more is let go of, whatever else it does; and nothing is kept or said of it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.harness import Server, connect_sql, eventually, free_port, until_numbered, uvicorn_command
from tests.integration.test_outlet import SUBSCRIBES, client_frame
from tests.integration.test_slow_clients import fill, slow_connection

READ_BYTES = 16_384
GROUP_BYTES = 16_000_000  # more than the two kernels' buffers
DRAIN_SECONDS = "1"
LEAVES = {
    "motia": SUBSCRIBES["motia"] | {"type": "leave"},
    "tidelog": {"type": "unsubscribe", "id": "s"},
}
OURS = "tidelog.web.protocol:SocketProtocol"


async def start(start_server: StartServer, ws: str) -> Server:
    port = free_port()
    server: Server = await start_server(
        port=port,
        command=[*uvicorn_command(port, ws=ws), "--ws-ping-interval", "1", "--ws-ping-timeout", "1"],
        TIDELOG_SOCKET_DRAIN_TIMEOUT_SECONDS=DRAIN_SECONDS,
        TIDELOG_LOG_ACCESS="true",
    )
    return server


def frame_of(message: Any) -> bytes:
    return client_frame(1, json.dumps(message).encode())


def closed(server: Server) -> int:
    return sum(one["message"] == "socket closed" for one in server.records("tidelog.access"))


@pytest.mark.parametrize("dialect", SUBSCRIBES)
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stays"])
async def test_who_asks_for_more_but_takes_nothing_is_let_go_of(
    start_server: StartServer, dialect: str, leaves: bool
) -> None:
    """Nobody writes to its group meanwhile, and it may have left that: but for what it says nothing waits for it."""
    server = await start(start_server, OURS)
    sql = await connect_sql(server.database_url)
    await fill(sql, "g", GROUP_BYTES, 200)
    await until_numbered(sql)
    protocol = "tidelog.v1" if dialect == "tidelog" else None
    async with slow_connection(server, protocol) as (reader, writer):
        writer.write(frame_of(SUBSCRIBES[dialect]))
        assert await reader.readexactly(READ_BYTES)
        writer.write((frame_of(LEAVES[dialect]) if leaves else b"") + frame_of({"type": "?"}) * 4)
        await eventually(lambda: closed(server), timeout_seconds=30)
    await sql.close()


@pytest.mark.parametrize("ends", ["vanishes", "closes"])
async def test_one_that_goes_in_the_midst_of_a_long_message_is_not_written_to(
    start_server: StartServer, ends: str
) -> None:
    """Though it had asked for more, which waits for the end of the message: the log says nothing of a failed write."""
    server = await start(start_server, OURS)
    sql = await connect_sql(server.database_url)
    await fill(sql, "g", GROUP_BYTES, 200)
    await until_numbered(sql)
    async with slow_connection(server) as (reader, writer):
        writer.write(frame_of(SUBSCRIBES["motia"]))
        assert await reader.readexactly(READ_BYTES)
        writer.write(frame_of({"type": "?"}) * 4)
        if ends == "closes":
            writer.write(client_frame(8, (1000).to_bytes(2, "big")))
            with suppress(ConnectionError):
                while await reader.read(READ_BYTES * 16):
                    pass
        else:
            # The server has taken what was sent when it answers the ping behind that, between two fragments.
            writer.write(client_frame(9, b"here"))
            last = b""
            while b"\x8a\x04here" not in last:
                last = last[-8:] + await reader.read(READ_BYTES)
            writer.transport.abort()
        await eventually(lambda: closed(server), timeout_seconds=30)
    assert [one["message"] for one in server.records() if one["level"] != "info"] == []
    await sql.close()


async def test_nothing_comes_behind_the_close_frame_of_one_that_floods_during_a_long_message(
    start_server: StartServer,
) -> None:
    """It reads on, and learns why: in the midst of the message, by a frame that may come there."""
    server = await start(start_server, OURS)
    sql = await connect_sql(server.database_url)
    await fill(sql, "g", GROUP_BYTES, 200)
    await until_numbered(sql)
    async with slow_connection(server) as (reader, writer):
        writer.write(frame_of(SUBSCRIBES["motia"]))
        first = await reader.readexactly(READ_BYTES)
        writer.write(frame_of({"type": "?"}) + client_frame(9, b"") * 10_000)
        rest = bytearray(first)
        with suppress(ConnectionError):
            while part := await reader.read(READ_BYTES * 64):
                rest += part
    frames = frames_of(bytes(rest))
    assert frames[-1][0] == 0x88 and frames[-1][1][:2] == (1008).to_bytes(2, "big")
    # One message is in parts, and between these comes nothing but pings, pongs and the close.
    data = [head for head, _ in frames if head & 0x0F < 8]
    assert data[0] == 0x01 and set(data[1:]) == {0x00}
    await sql.close()


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    """A server's frames: the first byte and the payload of each."""
    frames, at = [], 0
    while at < len(data):
        size, begin = data[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, begin = int.from_bytes(data[begin : begin + width], "big"), begin + width
        assert begin + size <= len(data), "a frame that is not whole"
        frames.append((data[at], data[begin : begin + size]))
        at = begin + size
    return frames
