"""Many subscribers that count what they get: the receiving end of every fan-out, the same for all sides.

Run by `tests.benchmarks.crowd`, with JSON lines: `open` connects, `expect` says how many messages each socket will
get. It answers once it is ready for them, and again when all have come.

While only the last arrival matters it reads now and then, several messages at once, which takes a fraction of a core:
what is measured is the server. Near the end, when every arrival is recorded, and if asked to, it reads at once.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from tests.benchmarks.processes.broker_clients import open_nats, open_redis
from tests.benchmarks.processes.lines import Lines, say
from tests.benchmarks.processes.websocket import (
    READ_SIZE_BYTES,
    NotSpokenError,
    WebSocket,
    connect,
    read,
    read_response,
)
from tests.benchmarks.text import N_MARK, find_n

CONNECTED_AT_ONCE = 100  # fewer than any server's backlog
PAUSE_SECONDS = 0.02  # between reads; what comes meanwhile fits in the kernel's buffers many times over
READ_AT_ONCE_PART = 0.1  # of all messages, the last: read without a pause


class Connection(Protocol):
    """A member of a crowd."""

    socket: socket.socket
    received: int  # messages since the last `expect`
    last: bytes  # the last of them

    def feed(self, data: bytes) -> None:
        """Take what the socket gave."""
        ...


class Crowd:
    """All connections of this process, and what they are waiting for."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._lines = Lines(sys.stdin.fileno())
        self._buffer = memoryview(bytearray(READ_SIZE_BYTES))
        self._connections: dict[int, Connection] = {}
        self._goal = 0  # messages that each connection is to get
        self._unfinished = 0  # connections that have not got all
        self._missing = 0  # messages that have not come
        self._pause_above = 0  # there is no hurry while more are missing
        self._arrivals: tuple[array[int], array[int]] | None = None  # number and time of each message, if wanted
        self._first_ns = 0
        self._now_ns = 0

    def run(self) -> None:
        """Serve commands until the input ends; pings are answered all the while."""
        self._poll.register(self._lines.descriptor, select.EPOLLIN)
        say({"ready": True})
        while not self._lines.ended:
            if self._missing > self._pause_above:
                time.sleep(PAUSE_SECONDS)
            self.serve()

    def serve(self, timeout_seconds: float | None = None) -> None:
        """Take what has come, or wait for something."""
        for descriptor, _ in self._poll.poll(timeout_seconds):
            if descriptor == self._lines.descriptor:
                for command in self._lines.read():
                    self.obey(**command)
                continue
            connection = self._connections[descriptor]
            size = connection.socket.recv_into(self._buffer)
            self._now_ns = time.perf_counter_ns()
            if size == 0:
                raise ConnectionError("the server closed a connection")
            connection.feed(bytes(self._buffer[:size]))

    def add(self, connection: Connection) -> None:
        connection.socket.setblocking(False)
        self._connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)

    def on_message(self, connection: Connection, data: bytes, start: int, end: int) -> None:
        connection.received += 1
        self._missing -= 1
        if self._arrivals is not None:
            self._arrivals[0].append(find_n(data[start:end]))
            self._arrivals[1].append(self._now_ns)
        if not self._first_ns:
            self._first_ns = self._now_ns
        if connection.received == self._goal:
            connection.last = data[start:end]
            self._unfinished -= 1
            if not self._unfinished:
                self._tell()

    def on_batch(self, connection: Connection, messages: int, data: bytes) -> None:
        """Some messages at once, with their items in `data`."""
        connection.received += messages
        self._missing -= messages
        if not self._first_ns:
            self._first_ns = self._now_ns
        if connection.received == self._goal:
            connection.last = data[data.rindex(N_MARK) :]
            self._unfinished -= 1
            if not self._unfinished:
                self._tell()

    def obey(self, do: str, **arguments: Any) -> None:
        match do:
            case "open":
                say(open_websockets(self, **arguments))
            case "open_redis":
                open_redis(self, **arguments)
                say({"ready": True})
            case "open_nats":
                open_nats(self, **arguments)
                say({"ready": True})
            case "count":
                say({"sockets": len(self._connections)})
            case "expect":
                self._expect(**arguments)
            case _:
                raise ValueError(f"no command is named {do!r}")

    def _expect(self, *, messages: int, record: bool, at_once: bool) -> None:
        for connection in self._connections.values():
            if connection.received != self._goal:
                raise ValueError(f"a connection got {connection.received} messages, not {self._goal}")
            connection.received = 0
        self._goal, self._unfinished, self._first_ns = messages, len(self._connections), 0
        self._arrivals = (array("q"), array("q")) if record else None
        self._missing = messages * len(self._connections)
        self._pause_above = self._missing if record or at_once else int(self._missing * READ_AT_ONCE_PART)
        say({"ready": True})

    def _tell(self) -> None:
        lasts = Counter(find_n(connection.last) for connection in self._connections.values())
        told: dict[str, Any] = {
            "first_ns": self._first_ns,
            "last_ns": self._now_ns,
            "lasts": sorted(lasts.items()),
            "size_bytes": max(len(connection.last) for connection in self._connections.values()),
        }
        if self._arrivals is not None:
            told |= {"numbers": self._arrivals[0].tolist(), "times_ns": self._arrivals[1].tolist()}
        say(told)


class Greeting:
    """Takes the messages of new connections until each has one that has `until` in it; counts the items in them."""

    def __init__(self, until: bytes) -> None:
        self._until = until
        self.greeted: set[WebSocket] = set()
        self.items = 0

    def on_message(self, connection: WebSocket, data: bytes, start: int, end: int) -> None:
        self.items += data.count(N_MARK, start, end)
        if data.find(self._until, start, end) >= 0:
            self.greeted.add(connection)


def open_websockets(
    crowd: Crowd, *, port: int, paths: Sequence[str], hellos: Sequence[str], until: str | None, protocol: str | None
) -> dict[str, Any]:
    """Connect to each path; say hello and wait for a message that has `until` in it, if it is given.

    Answers when the first hello was said and the last answer came (for a crowd of one this is the time of a
    snapshot), and how many items were in the answers.
    """
    greeting = Greeting((until or "").encode())
    hello_ns = greeted_ns = 0
    for first in range(0, len(paths), CONNECTED_AT_ONCE):
        batch = paths[first : first + CONNECTED_AT_ONCE]
        sockets = [connect(port, path, protocol) for path in batch]
        connections = []
        for one in sockets:
            rest = read_response(one, protocol)
            connections.append(WebSocket(greeting, one))
            connections[-1].feed(rest)
        if until is not None:
            hello_ns = hello_ns or time.perf_counter_ns()
            for connection, hello in zip(connections, hellos[first:], strict=False):
                connection.send_text(hello)
            for connection in connections:
                while connection not in greeting.greeted:
                    connection.feed(read(connection.socket))
            greeted_ns = time.perf_counter_ns()
        for connection in connections:
            connection.receiver = crowd
            crowd.add(connection)
        crowd.serve(0)  # opening thousands takes so long that the first are pinged meanwhile
    return {"hello_ns": hello_ns, "greeted_ns": greeted_ns, "items": greeting.items}


def main() -> None:
    try:
        Crowd().run()
    except NotSpokenError as error:
        say({"not_spoken": str(error)})
    except Exception as error:
        say({"error": f"the crowd: {type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    main()
