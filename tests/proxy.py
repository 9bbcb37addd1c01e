"""A network that can be cut, slowed down, or lose everything in silence: a TCP proxy for one target."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

from sqlalchemy.engine import make_url

CHUNK_SIZE = 65_536
NARROW_SIZE = 2048
SEGMENT_SIZE = 536
CLOSED = (OSError, asyncio.IncompleteReadError)

Target = tuple[str, int] | Path  # an address, or a Unix socket


class Proxy:
    """Passes bytes between whoever connects to `port` and the target. Use as an async context manager."""

    def __init__(self, target: Target, *, is_narrow: bool = False) -> None:
        """If `is_narrow`, little is in the network: what a client does not take stays with the server."""
        self.port = 0
        self._target = target
        self._is_narrow = is_narrow
        self._server: asyncio.Server | None = None
        self._flows = _flowing()  # of new connections; not set: bytes stay where they are
        self._delay_seconds = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection, as when a router loses its table."""
        for writer in self._writers:
            writer.transport.abort()

    def slow(self, delay_seconds: float) -> None:
        """Let every piece take so long, until `heal`."""
        self._delay_seconds = delay_seconds

    def blackhole(self) -> None:
        """Pass nothing on and tell nobody, until `heal`; new connections are taken, and lead nowhere."""
        self._flows.clear()

    def silence(self) -> None:
        """Pass nothing on of the connections of now, for ever; new ones work."""
        self._flows.clear()
        self._flows = _flowing()

    def move(self, target: Target) -> None:
        """New connections lead there; those of now stay where they are."""
        self._target = target

    def heal(self) -> None:
        """Pass everything on again, with what was held up meanwhile; but not what was silenced."""
        self._delay_seconds = 0.0
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        flows = self._flows
        if self._is_narrow:
            writer.transport.set_write_buffer_limits(high=NARROW_SIZE)
        try:
            await flows.wait()
            onward_reader, onward_writer = await self._connect()
            self._writers.add(onward_writer)
            try:
                await asyncio.gather(self._pass(flows, reader, onward_writer), self._pass(flows, onward_reader, writer))
            finally:
                self._writers.discard(onward_writer)
                onward_writer.transport.abort()
        except CLOSED:
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        if self._is_narrow:
            narrow(connection)
        try:
            await asyncio.get_running_loop().sock_connect(connection, self._target)
        except OSError:
            connection.close()
            raise
        return await asyncio.open_connection(sock=connection, limit=NARROW_SIZE if self._is_narrow else CHUNK_SIZE)

    async def _pass(self, flows: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its end; then the other end is told."""
        while chunk := await reader.read(CHUNK_SIZE):
            await flows.wait()
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            writer.write(chunk)
            await writer.drain()
        await flows.wait()
        with suppress(*CLOSED):
            writer.write_eof()


def _flowing() -> asyncio.Event:
    flows = asyncio.Event()
    flows.set()
    return flows


def target_of(url: str) -> Target:
    """Where a proxy finds the server of this database's URL."""
    parsed = make_url(url)
    host, port = (
        str(parsed.query.get("host", parsed.host or "127.0.0.1")),
        parsed.query.get("port", parsed.port or 5432),
    )
    return Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, int(str(port)))


def through(url: str, proxy: Proxy, *, username: str | None = None) -> str:
    """The same database by way of the proxy, as another user if one is named."""
    parsed = make_url(url).set(host="127.0.0.1", port=proxy.port, query={})
    return parsed.set(username=username or parsed.username).render_as_string(hide_password=False)


def narrow(connection: socket.socket) -> None:
    """To be done before it connects: little is under way between it and its peer.

    A sender's buffer grows with its congestion window, which begins at ten segments; loopback's have 64 KiB.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_SIZE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_SIZE)
