"""A client's side of a WebSocket, as far as counting needs it: only the frames' headers are looked at."""

from __future__ import annotations

import socket
import struct
from typing import Protocol

READ_SIZE_BYTES = 256 * 1024
CONNECT_TIMEOUT_SECONDS = 60
CONTINUATION, TEXT, PING, PONG = 0x0, 0x1, 0x9, 0xA
FIN = 0x80

REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
)


class NotSpokenError(Exception):
    """The server did not select the subprotocol."""


class Receiver(Protocol):
    """Who takes what comes."""

    def on_message(self, connection: WebSocket, data: bytes, start: int, end: int) -> None:
        """A text message: `data[start:end]`."""
        ...


class WebSocket:
    """One connection. `received` and `last` are its receiver's, who counts with them."""

    __slots__ = ("_fragments", "_rest", "_wants", "last", "received", "receiver", "socket")

    def __init__(self, receiver: Receiver, connected: socket.socket) -> None:
        self.socket = connected
        self.received = 0
        self.last = b""
        self.receiver = receiver
        self._rest = bytearray()  # the beginning of a frame that is not all there yet
        self._fragments = bytearray()  # of a message whose last frame is still to come
        self._wants = 0  # how long it is, as far as is known

    def send_text(self, text: str) -> None:
        self.socket.sendall(frame(TEXT, text.encode()))

    def feed(self, data: bytes) -> None:
        """Take what the socket gave."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wants:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, size = 0, len(data)
        while at < size:
            start, end = _extent(data, at, size)
            if end > size:
                self._rest += data[at:]
                self._wants = end - at
                return
            opcode, is_last = data[at] & 0xF, data[at] & FIN
            if opcode == TEXT and is_last:
                self.receiver.on_message(self, data, start, end)
            elif opcode in (TEXT, CONTINUATION):
                self._fragments += data[start:end]
                if is_last:
                    message, self._fragments = bytes(self._fragments), bytearray()
                    self.receiver.on_message(self, message, 0, len(message))
            elif opcode == PING:
                self.socket.sendall(frame(PONG, data[start:end]))
            else:
                raise ConnectionError(f"the server sent a frame of kind {opcode}: {data[start:end][:100]!r}")
            at = end


def _extent(data: bytes, at: int, size: int) -> tuple[int, int]:
    """Where the payload of the frame at `at` is; an end behind `size` tells how much is needed to know or have it."""
    start = at + 2
    if start > size:
        return start, start
    length = data[at + 1]
    if length < 126:
        return start, start + length
    start += 2 if length == 126 else 8
    if start > size:
        return start, start
    return start, start + int.from_bytes(data[at + 2 : start])


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame. Its mask is zero, which leaves the payload as it is."""
    size = len(payload)
    head = (
        struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 254, size)
    )
    return head + bytes(4) + payload


def connect(port: int, path: str, protocol: str | None) -> socket.socket:
    """Connect and ask for a WebSocket; `read_response` reads the answer."""
    connected = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_TIMEOUT_SECONDS)
    # Closed with a reset: thousands of connections in TIME_WAIT would use up the ports.
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    offered = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
    connected.sendall(REQUEST.format(path=path, port=port, protocol=offered).encode())
    return connected


def read_response(connected: socket.socket, protocol: str | None) -> bytes:
    """Read the handshake's answer; what came behind it is returned."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += read(connected)
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"the server refused a WebSocket: {head[:200]!r}")
    if protocol and f"sec-websocket-protocol: {protocol}".encode() not in head.lower():
        raise NotSpokenError(f"the server does not speak {protocol}")
    return rest


def read(connected: socket.socket) -> bytes:
    data = connected.recv(READ_SIZE_BYTES)
    if not data:
        raise ConnectionError("the server closed a connection")
    return data
