"""Taking connections out of the pool and giving them back, and taking turns on one of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from app.errors import DatabaseUnavailableError, StepEndedError
from app.store.failure import is_away

logger = logging.getLogger(__name__)

# After a restart of the database every pooled connection may be dead; more than any pool has, and an end.
CONNECTIONS_TRIED_MAX = 1000


class Turns:
    """One operation at a time, first come, first served; and none after the end."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._user: asyncio.Task[Any] | None = None
        self._ended = False

    def check(self) -> None:
        if self._ended:
            raise StepEndedError(
                "the step's handler has returned, and its context ended with it: do the work before it returns, "
                "or on a connection of your own"
            )

    async def take(self) -> None:
        self.check()
        await self._lock.acquire()
        if self._ended:
            self._lock.release()
            self.check()
        self._user = asyncio.current_task()

    def leave(self) -> None:
        self._user = None
        self._lock.release()

    async def end(self) -> None:
        """Wait for the operations that have begun or wait for their turn; there are no others."""
        async with self._lock:
            self._ended = True

    async def break_off(self) -> None:
        """Cancel the running operation; those that wait for their turn are refused."""
        self._ended = True
        if self._user is not None:
            self._user.cancel()
        async with self._lock:
            pass


class Lent:
    """A connection that is checked out: the driver's for calls on streams, SQLAlchemy's over it for a session."""

    __slots__ = ("_connection", "_engine", "_proxied", "driver", "statement_lock")

    def __init__(self, engine: Engine, proxied: PoolProxiedConnection) -> None:
        self._engine = engine
        self._proxied = proxied
        self._connection: Connection | None = None
        driver: Any = proxied.driver_connection
        self.driver: asyncpg.Connection[Any] = driver
        adapter: Any = proxied.dbapi_connection
        self.statement_lock: asyncio.Lock = adapter._execute_mutex  # which SQLAlchemy takes for each statement

    @property
    def connection(self) -> Connection:
        """SQLAlchemy's, made when it is first asked for."""
        if self._connection is None:
            self._connection = Connection(self._engine, self._proxied)
        return self._connection

    async def release(self) -> None:
        """Back to SQLAlchemy's pool, which must not lend it again if it is closed."""
        if self._connection is not None:
            if self.driver.is_closed():
                self._connection.invalidate()
            await greenlet_spawn(self._connection.close)  # it undoes what its user set
        elif self.driver.is_closed():
            self._proxied.invalidate()
        else:
            self._proxied.close()


class Pool:
    """Lends the connections of SQLAlchemy's pool to steps.

    SQLAlchemy's own `connect()` makes two greenlets and waits on a queue; that cost as much as a step's three
    round trips. Here a connection that is there is handed out at once, and who must wait does so on a semaphore.
    """

    def __init__(self, engine: AsyncEngine, *, size_max: int, timeout_seconds: float) -> None:
        self._engine = engine.sync_engine
        self._unlent = asyncio.Semaphore(size_max)
        self._timeout_seconds = timeout_seconds

    async def check_out(self) -> Lent:
        """A connection that isn't known to be dead, or DatabaseUnavailableError."""
        await self._wait()
        try:
            return await self._take()
        except BaseException:
            self._unlent.release()
            raise

    async def check_in(self, lent: Lent) -> None:
        if not lent.driver.is_closed() and lent.driver.is_in_transaction():
            logger.warning("a step left a transaction open (BEGIN in its SQL?): it is rolled back")
            lent.driver.terminate()
        try:
            await lent.release()
        finally:
            self._unlent.release()

    async def _wait(self) -> None:
        if not self._unlent.locked():
            await self._unlent.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._unlent.acquire()
        except TimeoutError:
            raise DatabaseUnavailableError(
                f"no connection was given back for {self._timeout_seconds} s (TIDELOG_POOL_TIMEOUT_SECONDS)"
            ) from None

    async def _take(self) -> Lent:
        for _ in range(CONNECTIONS_TRIED_MAX):
            try:
                lent = Lent(self._engine, await self._connect())
            except Exception as error:  # OSError, asyncpg's or SQLAlchemy's, by what was in the way
                raise DatabaseUnavailableError(f"no connection to the database: {error!r}") from error
            if not lent.driver.is_closed():
                return lent
            await lent.release()
        raise DatabaseUnavailableError("every connection is closed as soon as it is opened")

    async def _connect(self) -> PoolProxiedConnection:
        pool: Any = self._engine.pool
        if pool.checkedin():
            try:
                return self._engine.raw_connection()
            except MissingGreenlet:  # the one that is there was closed: it has to be opened anew, which takes I/O
                pass
        return await greenlet_spawn(self._engine.raw_connection)


def raise_if_away(error: BaseException | None, driver: asyncpg.Connection[Any] | None) -> None:
    if isinstance(error, Exception) and (is_away(error) or (driver is not None and driver.is_closed())):
        raise DatabaseUnavailableError(f"the connection to the database broke: {error}") from error
