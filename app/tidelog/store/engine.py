"""Connections to the database: a pool for steps and snapshots, single ones for the feed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tidelog.errors import DatabaseUnavailableError
from tidelog.store.connecting import Connector, connector
from tidelog.store.driver import DriverConnection
from tidelog.store.failure import CONNECTION_ERRORS, is_crowded
from tidelog.store.liveness import is_writable
from tidelog.store.log import ARCHIVE_SETTINGS, FEED_SETTINGS
from tidelog.store.pool import Pool
from tidelog.store.url import CONNECT_TIMEOUT_SECONDS, GIVEN_BY

TROUBLE_TIMEOUT_SECONDS = 4  # two looks of 2 s: at a connection that may have died unnoticed, and at a new one
POOL_IDLE_SECONDS = 30.0  # long enough for a pause between two clicks, short enough for who else needs connections
ARCHIVE_POOL_SIZE = 4
# For reads over HTTP (reads.py), beside all else: what a flood of them may have at most.
READS_POOL_SIZE = 2
READ_TIMEOUT_SECONDS = 10.0  # of one statement: a page of a large group's log
# The log is looked up by keys, as ever; but a group's rows are put in an order that no index has.
READS_SETTINGS = {
    **FEED_SETTINGS,
    "enable_sort": "on",
    "enable_bitmapscan": "on",
    "default_transaction_read_only": "on",
    "statement_timeout": str(round(READ_TIMEOUT_SECONDS * 1000)),
    "lock_timeout": "1000",
    "idle_in_transaction_session_timeout": "30000",
}
# Of an item as Postgres writes it, which has a space behind each comma and colon: "[1,1]" grows to one and a half.
SPACED_BY = 2
ITEM_SIZE_MAX_BYTES = 67_108_864  # the most that check_json.sql takes


class Database:
    """One database: a pool for steps, a small one for the archive, and single connections for the feed.

    Made without a URL, because the embedded server's is known only once it runs: `open` it, and `close` it.
    """

    def __init__(
        self,
        *,
        pool_size_max: int,
        pool_timeout_seconds: float,
        pool_idle_seconds: float = POOL_IDLE_SECONDS,
        step_idle_timeout_seconds: float = 0,
        step_lock_timeout_seconds: float = 0,
        item_size_max_bytes: int | None = None,
    ) -> None:
        """For steps' connections: Postgres ends a transaction that has sent nothing for `step_idle_timeout_seconds`,
        and fails a statement that has waited `step_lock_timeout_seconds` for a lock. 0: as the role says.
        It takes items of `item_size_max_bytes` of JSON, as steps write it.
        """
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connector: Connector | None = None
        self._step_settings: dict[str, str] = {}
        if step_idle_timeout_seconds:  # the step's own limit ends it before; this is for a process that stands still
            self._step_settings["idle_in_transaction_session_timeout"] = str(round(step_idle_timeout_seconds * 1000))
        if step_lock_timeout_seconds:
            self._step_settings["lock_timeout"] = str(max(1, round(step_lock_timeout_seconds * 1000)))
        if item_size_max_bytes is not None:  # as check_json.sql counts them
            self._step_settings["tidelog.item_size_max_bytes"] = str(
                min(SPACED_BY * item_size_max_bytes, ITEM_SIZE_MAX_BYTES)
            )
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._open_for_pool,
            isolation_level="AUTOCOMMIT",  # a step says BEGIN and COMMIT itself
            pool_size=pool_size_max,
            max_overflow=0,
            pool_timeout=pool_timeout_seconds,
            pool_use_lifo=True,  # Lent relies on it
            # No pre-ping: it is a round trip for each step. A dead connection is found by BEGIN, which is then said on
            # another one.
        )
        self.pool = Pool(
            self.engine,
            self.connect,
            size_max=pool_size_max,
            timeout_seconds=pool_timeout_seconds,
            idle_seconds=pool_idle_seconds,
        )
        self._archive_pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._reads_pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self, url: str) -> None:
        """From now on connections go to `url`, in any form that psql takes. Raises DatabaseUrlError."""
        self._loop = asyncio.get_running_loop()
        self._connector = self.connector(url)
        self.pool.open()
        # Few: joins may wait for each other, and must not take the steps' connections.
        self._archive_pool = await _pool(ARCHIVE_POOL_SIZE, self._connect_archive)
        self._reads_pool = await _pool(READS_POOL_SIZE, self._connect_reads)

    async def close(self) -> None:
        await self.pool.close()
        await self.engine.dispose()
        for pool in (self._archive_pool, self._reads_pool):
            if pool is not None:
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                        await pool.close()
                except TimeoutError:
                    pool.terminate()

    @property
    def archive_pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool for reading snapshots and past commits; its sessions are set up for the log's statements."""
        if self._archive_pool is None:
            raise RuntimeError("the database is not open yet")
        return self._archive_pool

    @property
    def reads_pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool for reads over HTTP; its sessions can't write, and end a statement that takes long."""
        if self._reads_pool is None:
            raise RuntimeError("the database is not open yet")
        return self._reads_pool

    async def connect(self, **server_settings: str) -> asyncpg.Connection[Any]:
        """A new connection of its own, not from a pool. Raises OSError or asyncpg's errors."""
        if self._connector is None:
            raise RuntimeError("the database is not open yet")
        try:
            return await self._connector(**server_settings)
        except asyncpg.TooManyConnectionsError:
            if self._loop is not None and not self._loop.is_closed():  # the sequencer has a loop of its own
                self._loop.call_soon_threadsafe(self.pool.make_room)
            raise

    async def _connect_archive(self, *_: Any, **__: Any) -> asyncpg.Connection:
        return await self.connect(application_name="tidelog archive", **ARCHIVE_SETTINGS)

    async def _connect_reads(self, *_: Any, **__: Any) -> asyncpg.Connection:
        return await self.connect(application_name="tidelog reads", **READS_SETTINGS)

    def _open_for_pool(self) -> Awaitable[asyncpg.Connection[Any]]:
        assert self._connector is not None  # noqa: S101 - open
        return self._connector(**self._step_settings)

    async def trouble(self) -> str | None:
        """Why a step could not write to the database right now, or None if it could."""
        try:
            async with asyncio.timeout(TROUBLE_TIMEOUT_SECONDS):
                if await self._is_writable() or await self._is_writable():
                    return None
        except (*CONNECTION_ERRORS, SQLAlchemyError, DatabaseUnavailableError) as error:
            return f"{type(error).__name__}: {error}"
        return "it takes no writes: the server is a standby, or default_transaction_read_only is on"

    async def _is_writable(self) -> bool:
        """By a connection of the pool; False if it was no good. The second time it is a new or a checked one.

        A pool whose connections are all in use says nothing of the database: then by one of its own.
        """
        lent = await self.pool.check_out_at_once()
        if lent is None:
            return await self._is_writable_for_others()
        is_good = False
        try:
            with suppress(*CONNECTION_ERRORS):
                is_good = await is_writable(lent.driver)
        finally:
            if not is_good:
                self.pool.distrust(lent)
            await self.pool.check_in(lent)
        return is_good

    async def _is_writable_for_others(self) -> bool:
        try:
            connection = await self.connect()
        except CONNECTION_ERRORS as error:
            if is_crowded(error):
                return True  # the server lives, and those who have the connections are at work
            raise
        try:
            return await is_writable(connection)
        finally:
            connection.terminate()

    @staticmethod
    def connector(url: str, given_by: str = GIVEN_BY) -> Connector:
        """A function that opens a new connection, not from the pool. Raises DatabaseUrlError."""
        return connector(url, given_by)


async def _pool(size: int, connect: Any) -> asyncpg.Pool[asyncpg.Record]:
    """Without a connection so far."""
    return await asyncpg.create_pool(
        min_size=0,
        max_size=size,
        max_inactive_connection_lifetime=POOL_IDLE_SECONDS,
        connection_class=DriverConnection,
        connect=connect,
        reset=_leave_as_it_is,
    )


async def _leave_as_it_is(_connection: object) -> None:
    """The archive's statements only read: they leave nothing in the session that a round trip should clean up."""
