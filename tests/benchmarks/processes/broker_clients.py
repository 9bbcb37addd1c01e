"""Subscribers of Redis Streams and of NATS, as members of a crowd: they count items by a mark that each has once."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from tests.benchmarks.text import N_MARK

if TYPE_CHECKING:
    from tests.benchmarks.processes.crowd import Crowd

TIMEOUT_SECONDS = 30
READ_SIZE_BYTES = 65_536
STREAM, FIELD = b"s", b"d"  # of Redis
BUCKET = "bench"  # of NATS


class RedisStream:
    """Reads a stream: asks for what comes after the last entry that it has, and waits until there is something."""

    __slots__ = ("_crowd", "_rest", "last", "received", "socket")

    def __init__(self, crowd: Crowd, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self.received = 0
        self.last = b""
        self._crowd = crowd
        self._rest = b""
        # Commands of one write are taken in one go: once it says PONG, it has the question for new entries, too.
        self.socket.sendall(resp(b"PING") + _read_after(b"$"))
        while b"PONG\r\n" not in self._rest:
            self._rest += self.socket.recv(READ_SIZE_BYTES)
        self._rest = b""

    def feed(self, data: bytes) -> None:
        self._rest = data = self._rest + data
        # *1 *2 $1 s *<entries>, and of each *2 $<size> <id> *2 $1 d $<size> <item>; items have no line ends.
        head = data.split(b"\r\n", 5)
        if len(head) < 6 or not data.endswith(b"\r\n"):
            return
        entries = int(head[4][1:])
        if data.count(N_MARK) < entries:
            return
        self._rest = b""
        id_end = data.rindex(b"\r\n*2\r\n$1\r\nd\r\n")
        id = data[data.rindex(b"\r\n", 0, id_end) + 2 : id_end]
        self._crowd.on_batch(self, entries, data)
        self.socket.sendall(_read_after(id))


class NatsWatch:
    """Watches all keys of a bucket, with a consumer of its own that pushes what is put."""

    __slots__ = ("_crowd", "_rest", "last", "received", "socket")

    def __init__(self, crowd: Crowd, port: int, name: str) -> None:
        self.received = 0
        self.last = b""
        self._crowd = crowd
        self._rest = b""
        self.socket = nats_connect(port)
        consumer = {
            "deliver_subject": f"watch.{name}",
            "deliver_policy": "new",
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subject": f"$KV.{BUCKET}.>",
            "num_replicas": 1,
            "mem_storage": True,
        }
        self.socket.sendall(f"SUB watch.{name} 1\r\n".encode())
        stream = f"KV_{BUCKET}"
        nats_request(self.socket, f"$JS.API.CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": consumer})

    def feed(self, data: bytes) -> None:
        data = self._rest + data
        if not data.endswith(b"\r\n"):  # the end of a message, or of its head
            self._rest = data
            return
        self._rest = b""
        if b"PING\r\n" in data:
            self.socket.sendall(b"PONG\r\n")
        items = data.count(N_MARK)
        if items:
            self._crowd.on_batch(self, items, data)


def open_redis(crowd: Crowd, *, port: int, clients: int) -> None:
    for _ in range(clients):
        crowd.add(RedisStream(crowd, port))


def open_nats(crowd: Crowd, *, port: int, clients: int) -> None:
    for n in range(clients):
        crowd.add(NatsWatch(crowd, port, str(n)))


def resp(*parts: bytes) -> bytes:
    """A command for Redis."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def nats_connect(port: int) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.sendall(b'CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\nPING\r\n')
    _read_until(connected, b"PONG\r\n")
    return connected


def nats_request(connected: socket.socket, subject: str, body: dict[str, Any]) -> None:
    """Ask NATS's JetStream for something; raises with its answer if it refuses."""
    payload = json.dumps(body)
    inbox = f"_INBOX.{connected.getsockname()[1]}"
    connected.sendall(
        f"SUB {inbox} 9\r\nUNSUB 9 1\r\nPUB {subject} {inbox} {len(payload)}\r\n{payload}\r\nPING\r\n".encode()
    )
    answer = _read_until(connected, b"}\r\n")
    if b"PONG\r\n" not in answer:
        answer += _read_until(connected, b"PONG\r\n")
    if b'"error"' in answer:
        raise ConnectionError(f"NATS refused {subject}: {answer!r}")


def _read_after(id: bytes) -> bytes:
    return resp(b"XREAD", b"BLOCK", b"0", b"STREAMS", STREAM, id)


def _read_until(connected: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        received = connected.recv(READ_SIZE_BYTES)
        if not received:
            raise ConnectionError(f"the server closed a connection: {data!r}")
        data += received
    return data
