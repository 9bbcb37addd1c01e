"""What the sequencer's tests stand on: a log to write to and wait for, and a sequencer of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import asyncpg

from tidelog.numbering.sequencer import SequencerThread
from tidelog.store.engine import Database
from tidelog.store.retention import Retention

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
                    "select number from streams.commit where xid = streams.in_log($1)", xid
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
    sequencer = SequencerThread(Database.connector(url), Retention(retention))
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
