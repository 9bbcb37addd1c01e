"""What the sequencer's tests stand on: a log to write to and wait for, a sequencer of its own, a proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from tidelog.numbering.sequencer import SequencerThread
from tidelog.store.engine import Database

WAIT_SECONDS = 90
UNNUMBERED = """
    select count(distinct xid) from (select xid from streams.change union select xid from streams.event) w
    where not exists (select from streams.commit n where n.xid = w.xid)
"""


class Log:
    """A writer's connection, and an observer's that hears of new numbers."""

    def __init__(self, writer: asyncpg.Connection[Any], observer: asyncpg.Connection[Any]) -> None:
        self.writer = writer
        self.observer = observer
        self._head_moved = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Log]:
        async with connected(url) as writer, connected(url) as observer:
            log = cls(writer, observer)
            await observer.add_listener("tidelog_head", lambda *_: log._head_moved.set())
            yield log

    async def write(self, id: str, count: int = 1, *, connection: asyncpg.Connection[Any] | None = None) -> int:
        """Create `count` items in one statement; returns the transaction's xid."""
        connection = connection or self.writer
        xid: int = await connection.fetchval(
            "with made as (insert into streams.chat_message (group_id, id, data) "
            "select 'g', $1 || '/' || i, '{\"text\": \"hello\"}' from generate_series(1, $2::int) i returning 1) "
            "select pg_current_xact_id() from made limit 1",
            id,
            count,
        )
        return xid

    async def until_numbered(self, xid: int) -> int:
        """The number of that transaction, once it has one."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                self._head_moved.clear()
                number: int | None = await self.observer.fetchval(
                    "select number from streams.commit where xid = $1", xid
                )
                if number is not None:
                    return number
                await self._head_moved.wait()

    async def write_numbered(self, id: str) -> int:
        """Create an item, and wait for the commit's number."""
        return await self.until_numbered(await self.write(id))

    async def commits(self) -> list[tuple[int, int]]:
        """(number, xid) of every commit, in order."""
        return [tuple(row) for row in await self.observer.fetch("select number, xid from streams.commit order by 1")]

    async def check(self) -> None:
        """Numbers are dense, and every visible transaction has one."""
        numbers = [number for number, _ in await self.commits()]
        assert numbers == list(range(1, len(numbers) + 1))
        assert await self.observer.fetchval(UNNUMBERED) == 0


@contextlib.asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        connection.terminate()


@contextlib.contextmanager
def sequencing(url: str, retention: timedelta | None = None) -> Iterator[SequencerThread]:
    """A sequencer at work, as in a server process; another one is a standby."""
    sequencer = SequencerThread(Database.connector(url), retention)
    sequencer.start()
    try:
        yield sequencer
    finally:
        sequencer.stop()


HOLDER = (
    "select l.pid from pg_locks l where l.locktype = 'advisory' and l.classid = 1953064044 and l.objid = 1 "
    "and l.database = (select oid from pg_database where datname = current_database()) and l.granted"
)


async def backend_of_sequencer(connection: asyncpg.Connection[Any]) -> int:
    """The pid of the backend that holds the sequencer's lock, once there is one."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            pid: int | None = await connection.fetchval(HOLDER)
            if pid is not None:
                return pid


class Proxy:
    """TCP in front of Postgres, which can go silent: it takes what comes, and nothing arrives."""

    def __init__(self, url: str) -> None:
        self._upstream = make_url(url)
        self._silent_before = 0  # connections with a lower serial are silent
        self._serial = 0
        self._writers: list[asyncio.StreamWriter] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[Proxy]:
        proxy = cls(url)
        proxy._server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        try:
            yield proxy
        finally:
            proxy._server.close()
            for writer in proxy._writers:
                writer.transport.abort()

    _server: asyncio.Server

    @property
    def url(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return self._upstream.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)

    def silence(self) -> None:
        """The connections of now are silent for ever, new ones work."""
        self._silent_before = self._serial

    def move(self, url: str) -> None:
        """New connections lead there; those of now stay where they are."""
        self._upstream = make_url(url)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serial, self._serial = self._serial, self._serial + 1
        folder = self._upstream.query.get("host")
        if folder:
            port = self._upstream.query.get("port", "5432")
            upstream = await asyncio.open_unix_connection(Path(str(folder)) / f".s.PGSQL.{port}")
        else:
            assert self._upstream.host is not None
            upstream = await asyncio.open_connection(self._upstream.host, self._upstream.port or 5432)
        self._writers += [writer, upstream[1]]
        await asyncio.gather(self._pass_on(serial, reader, upstream[1]), self._pass_on(serial, upstream[0], writer))

    async def _pass_on(self, serial: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(65536):
                if serial >= self._silent_before:
                    writer.write(block)
            if serial >= self._silent_before:
                writer.close()
