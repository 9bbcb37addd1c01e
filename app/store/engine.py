"""Connections to the database: a pool for steps and snapshots, single ones for the feed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import MissingGreenlet, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import in_greenlet

from app.store.checkout import Pool
from app.store.failure import TROUBLE
from app.store.log import FEED_SETTINGS

CONNECT_TIMEOUT_SECONDS = 10
TROUBLE_TIMEOUT_SECONDS = 2
ARCHIVE_POOL_SIZE = 4


class Connector(Protocol):
    """Opens a connection of its own, with Postgres settings for that session."""

    async def __call__(self, **server_settings: str) -> asyncpg.Connection[Any]: ...


class Database:
    """One database: a pool for steps, a small one for the archive, and single connections for the feed.

    Made without a URL, because the embedded server's is known only once it runs: `open` it, and `close` it.
    """

    def __init__(self, *, pool_size_max: int, pool_timeout_seconds: float) -> None:
        self._connector: Connector | None = None
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._open_for_pool,
            isolation_level="AUTOCOMMIT",  # a step says BEGIN and COMMIT itself
            pool_size=pool_size_max,
            max_overflow=0,
            pool_timeout=pool_timeout_seconds,
            # No pre-ping: it is a round trip for each step. A dead connection is found by the step that
            # gets it, which answers 503.
        )
        self.pool = Pool(self.engine, size_max=pool_size_max, timeout_seconds=pool_timeout_seconds)
        self._archive_pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self, url: str) -> None:
        """From now on connections go to `url`, any libpq URL (postgresql://...)."""
        self._connector = self.connector(url)
        # Few: joins may wait for each other, and must not take the steps' connections.
        self._archive_pool = await asyncpg.create_pool(
            libpq_url(url),
            min_size=0,
            max_size=ARCHIVE_POOL_SIZE,
            timeout=CONNECT_TIMEOUT_SECONDS,
            reset=_leave_as_it_is,
            server_settings={"application_name": "tidelog archive", **FEED_SETTINGS},
        )

    async def close(self) -> None:
        await self.engine.dispose()
        if self._archive_pool is not None:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    await self._archive_pool.close()
            except TimeoutError:
                self._archive_pool.terminate()

    @property
    def archive_pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool for reading snapshots and past commits; its sessions are set up for the log's statements."""
        if self._archive_pool is None:
            raise RuntimeError("the database is not open yet")
        return self._archive_pool

    async def connect(self, **server_settings: str) -> asyncpg.Connection[Any]:
        """A new connection of its own, not from a pool. Raises OSError or asyncpg's errors."""
        if self._connector is None:
            raise RuntimeError("the database is not open yet")
        return await self._connector(**server_settings)

    def _open_for_pool(self) -> Awaitable[asyncpg.Connection[Any]]:
        if not in_greenlet():  # Pool, which tries without, goes on from here
            raise MissingGreenlet("a connection must be opened")
        return self.connect()

    async def trouble(self) -> str | None:
        """Why a step could not use the database right now, or None if it could."""
        try:
            async with asyncio.timeout(TROUBLE_TIMEOUT_SECONDS), self.engine.connect() as connection:
                await connection.exec_driver_sql("select 1")
        except (*TROUBLE, SQLAlchemyError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    @staticmethod
    def connector(url: str) -> Connector:
        """A function that opens a new connection, not from the pool. It raises OSError or asyncpg's errors."""
        dsn = libpq_url(url)

        async def connect(**server_settings: str) -> asyncpg.Connection[Any]:
            # JIT compiles for longer than any statement of ours runs.
            settings = {"application_name": "tidelog", "jit": "off", **server_settings}
            return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_SECONDS, server_settings=settings)

        return connect


async def _leave_as_it_is(_connection: object) -> None:
    """The archive's statements only read: they leave nothing in the session that a round trip should clean up."""


def libpq_url(url: str) -> str:
    """`url` without SQLAlchemy's driver name, as libpq, asyncpg and psql understand it."""
    parsed = make_url(url)
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)
