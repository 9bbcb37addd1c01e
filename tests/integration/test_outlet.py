"""The two ways to a socket, straight to the transport and by ASGI's send, are the same on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.conftest import StartServer
from tests.harness import Server, free_port, uvicorn_command

TIMEOUT_SECONDS = 60
MASK = b"\0\0\0\0"  # a client's frames are masked; with this key they stay readable
# What the server says last before the subscription is live, so that nothing of what is written then comes before it.
ANSWERED = {"motia": b'"type":"sync","data":[]}}', "tidelog": b'"type":"live",'}
SUBSCRIBES = {
    "motia": {"type": "join", "data": {"streamName": "chatMessage", "groupId": "g", "subscriptionId": "s"}},
    "tidelog": {"type": "subscribe", "id": "s", "stream": "chatMessage", "group": "g"},
}


def client_frame(opcode: int, payload: bytes) -> bytes:
    assert len(payload) < 65536
    return bytes([0x80 | opcode, 0x80 | 126]) + len(payload).to_bytes(2, "big") + MASK + payload


@asynccontextmanager
async def raw_connection(server: Server, dialect: str) -> AsyncIterator[tuple[Any, Any]]:
    """A TCP connection after the handshake: (reader, writer)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**22)
    protocol = "sec-websocket-protocol: tidelog.v1\r\n" if dialect == "tidelog" else ""
    writer.write(
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        ).encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("dialect", SUBSCRIBES)
async def test_both_send_the_same_bytes(start_server: StartServer, dialect: str) -> None:
    """Small, middle and large frames, several in one commit, and the close frame: byte for byte the same."""
    direct = await start_server(is_patient=True)
    port = free_port()
    plain = await start_server(port=port, command=uvicorn_command(port, ws="websockets-sansio"), is_patient=True)
    connection = await asyncpg.connect(direct.database_url)
    received = []
    async with raw_connection(direct, dialect) as one, raw_connection(plain, dialect) as two:
        for reader, writer in (one, two):
            writer.write(client_frame(1, json.dumps(SUBSCRIBES[dialect]).encode()))
            received.append(await asyncio.wait_for(reader.readuntil(ANSWERED[dialect]), TIMEOUT_SECONDS))
        for size in (10, 200, 70_000):
            await connection.execute(
                "insert into streams.chat_message (group_id, id, data) "
                "select 'g', $1 || '-' || i, jsonb_build_object('text', repeat('ü', $2)) from generate_series(1, 3) i",
                str(size),
                size,
            )
        await connection.execute("select streams.send('chatMessage', 'g', null, 'the end', '{}')")
        for number, (reader, writer) in enumerate((one, two)):
            received[number] += await asyncio.wait_for(reader.readuntil(b'"the end","data":{}}}'), TIMEOUT_SECONDS)
            writer.write(client_frame(8, (1000).to_bytes(2, "big")))
            received[number] += await asyncio.wait_for(reader.read(), TIMEOUT_SECONDS)
    await connection.close()
    assert len(received[0]) > 400_000
    assert received[0] == received[1]
