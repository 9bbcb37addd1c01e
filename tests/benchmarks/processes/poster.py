"""Keep-alive HTTP clients that post one request after the other, each when the one before was answered.

JSON lines: {"port", "path", "clients", "seconds"}; returns requests, seconds, and their latencies.
"""

from __future__ import annotations

import json
import select
import socket
import statistics
import sys
import time

from tests.benchmarks.processes.lines import say
from tests.benchmarks.text import item

READ_SIZE_BYTES = 65_536
WARM_UP_SECONDS = 0.5  # not counted: connections are opened, pools filled


class Client:
    """One connection. Its body's number counts up, so that every post changes its item."""

    def __init__(self, port: int, path: str, id: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self._head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        self._id = id
        self._n = int(time.time()) % 1_000_000
        self._answer = b""

    def post(self) -> None:
        self._n += 1
        body = item(self._n, self._id)
        self.began = time.perf_counter()
        self.socket.sendall(f"{self._head}content-length: {len(body)}\r\n\r\n{body}".encode())

    def is_answered(self) -> bool:
        """Read what there is; whether the answer is whole now. Raises unless it is 201 with the item."""
        data = self.socket.recv(READ_SIZE_BYTES)
        if not data:
            raise ConnectionError("the server closed a connection")
        self._answer += data
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return False
        if not head.startswith(b"HTTP/1.1 201") or f"{self._n:07d}".encode() not in body:
            raise ConnectionError(f"answered {self._answer[:300]!r}")
        self._answer = b""
        return True


def run(port: int, path: str, clients: int, seconds: float) -> dict[str, float]:
    poll = select.epoll()
    by_descriptor = {}
    for n in range(clients):
        client = Client(port, path, f"i{n}")
        by_descriptor[client.socket.fileno()] = client
        poll.register(client.socket.fileno(), select.EPOLLIN)
        client.post()
    begin = time.perf_counter() + WARM_UP_SECONDS
    end = begin + seconds
    latencies = []
    now = time.perf_counter()
    while now < end:
        for descriptor, _ in poll.poll(1):
            client = by_descriptor[descriptor]
            if client.is_answered():
                now = time.perf_counter()
                if now >= begin:
                    latencies.append(now - client.began)
                client.post()
        now = time.perf_counter()
    for client in by_descriptor.values():
        client.socket.settimeout(10)
        while not client.is_answered():
            pass
        client.socket.close()
    percentiles = statistics.quantiles(latencies, n=100)
    return {
        "posts_per_second": len(latencies) / (now - begin),
        "p50_ms": percentiles[49] * 1000,
        "p99_ms": percentiles[98] * 1000,
    }


def main() -> None:
    say({"ready": True})
    for line in sys.stdin:
        try:
            say(run(**json.loads(line)))
        except Exception as error:
            say({"error": f"the clients: {type(error).__name__}: {error}"})
            raise


if __name__ == "__main__":
    main()
