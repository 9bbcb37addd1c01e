"""A WebSocket client by hand, which can say what no library lets one say."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.harness import Server

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"
READ_TIMEOUT_SECONDS = 60
NARROW_BUFFER_BYTES = 4096  # the system's own, for a connection: it doubles that
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    "host": "localhost",
    "upgrade": "websocket",
    "connection": "upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": KEY,
}


def frame(
    opcode: int, payload: bytes = b"", *, first: int = 0x80, masked: bool = True, declared: int | None = None
) -> bytes:
    """A client's frame; `first` has the final and reserved bits, `declared` a length that may be a lie."""
    size = len(payload) if declared is None else declared
    mark = 0x80 if masked else 0
    if size < 126:
        head = bytes([first | opcode, mark | size])
    elif size < 65_536:
        head = bytes([first | opcode, mark | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first | opcode, mark | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = MASK * (len(payload) // 4 + 1)
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(key[: len(payload)], "big")
    return head + MASK + hidden.to_bytes(len(payload), "big")


def text(message: Any) -> bytes:
    """A frame with a whole message: a string as it is, anything else as JSON."""
    return frame(TEXT, (message if isinstance(message, str) else json.dumps(message)).encode())


def handshake(subprotocol: str | None = None) -> bytes:
    """A good one."""
    headers = HEADERS | ({} if subprotocol is None else {"sec-websocket-protocol": subprotocol})
    return request(headers)


def request(headers: dict[str, str], line: str = "GET / HTTP/1.1") -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")


class Wire:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Server, *, is_narrow: bool = False, source: str = "") -> AsyncIterator[Wire]:
        """One that `is_narrow` takes hardly more from the server than what is read of it.

        `source` is the address that it comes from: on Linux every 127.x.y.z is this machine.
        """
        plain = socket.socket()
        if source:
            plain.bind((source, 0))
        if is_narrow:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BUFFER_BYTES)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", server.port))
        wire = cls(*await asyncio.open_connection(sock=plain))
        try:
            yield wire
        finally:
            wire.writer.transport.abort()

    @classmethod
    @asynccontextmanager
    async def upgraded(
        cls, server: Server, subprotocol: str | None = None, *, is_narrow: bool = False, source: str = ""
    ) -> AsyncIterator[Wire]:
        """After the opening handshake."""
        async with cls.open(server, is_narrow=is_narrow, source=source) as wire:
            wire.writer.write(handshake(subprotocol))
            head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), READ_TIMEOUT_SECONDS)
            assert head.startswith(b"HTTP/1.1 101 "), head
            yield wire

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), READ_TIMEOUT_SECONDS)

    async def receive(self) -> tuple[int, bytes]:
        """The next frame of the server's: opcode and payload. Raises IncompleteReadError at the end."""
        async with asyncio.timeout(READ_TIMEOUT_SECONDS):
            first, size = await self.reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            return first & 0x0F, await self.reader.readexactly(size)

    async def closing_code(self) -> int | None:
        """The code that the server closes with; None if the connection ends without one."""
        try:
            while True:
                opcode, payload = await self.receive()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2], "big") if payload else None
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def rest(self) -> bytes:
        """All that the server still says; it has to end the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), READ_TIMEOUT_SECONDS)
        except ConnectionError:
            # asyncio raises a reset before what had come ahead of it, and has no public way to that.
            return bytes(self.reader._buffer)  # type: ignore[attr-defined]
