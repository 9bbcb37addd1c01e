"""One of the pool's connections: the driver's for calls on streams, SQLAlchemy's over it for an author's session."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

# What a live server answers a statement of ours in. Past it we ask whether it is still at work on it (Pool).
ANSWER_TIMEOUT_SECONDS = 5.0
NEVER = math.inf


class LentConnection(Connection):
    """SQLAlchemy's, which ends with its step: closed before, it would be given on with the transaction that is open."""

    def close(self) -> None:
        """Nothing: an author who closes what he got is right elsewhere."""

    def end(self) -> None:
        super().close()


class Lent:
    """A connection, from when it is opened to when it is closed. The pool lends it to one step at a time."""

    __slots__ = (
        "_connection",
        "_engine",
        "_proxied",
        "driver",
        "due_at",
        "idle_since",
        "is_spent",
        "opened_at",
        "origin",
        "statement_lock",
        "suspicions",
    )

    def __init__(self, engine: Engine, proxied: PoolProxiedConnection, suspicions: int) -> None:
        self._engine = engine
        self._connection: LentConnection | None = None
        self.origin = "''"  # the session's tidelog.origin, as a literal: who writes, if a transaction doesn't say it
        self.is_spent = False  # no good any more: to be closed rather than lent again
        self.suspicions = suspicions  # how many the pool had when this connection was last known to be good
        self.due_at = NEVER  # when the answer to a statement of ours should be there, by time.monotonic
        self.opened_at = self.idle_since = time.monotonic()
        self._hold(proxied)

    def _hold(self, proxied: PoolProxiedConnection) -> None:
        self._proxied = proxied
        proxied.info["lent"] = self
        driver: Any = proxied.driver_connection
        self.driver: asyncpg.Connection[Any] = driver
        adapter: Any = proxied.dbapi_connection
        self.statement_lock: asyncio.Lock = adapter._execute_mutex  # which SQLAlchemy takes for each statement

    @property
    def connection(self) -> Connection:
        """SQLAlchemy's, made when it is first asked for."""
        if self._connection is None:
            self._connection = LentConnection(self._engine, self._proxied)
        return self._connection

    @property
    def was_used_by_session(self) -> bool:
        """Whether SQL that we don't know has run in it since it was lent."""
        return self._connection is not None

    @property
    def is_closed(self) -> bool:
        return self.driver.is_closed()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """The pool looks after a statement that got no answer in time."""
        self.expect_answer()
        try:
            yield
        finally:
            self.due_at = NEVER

    def expect_answer(self) -> None:
        self.due_at = time.monotonic() + ANSWER_TIMEOUT_SECONDS

    async def clean(self) -> None:
        """After a session: as it was opened, for the server and for SQLAlchemy."""
        connection, self._connection = self._connection, None
        assert connection is not None  # noqa: S101 - was used by a session
        with self.answering():
            await greenlet_spawn(self._renew, connection)
            await self.driver.reset()
        self.origin = "''"

    def _renew(self, connection: LentConnection) -> None:
        """Undo what the session's user set in SQLAlchemy (an isolation level), and bar him from the connection.

        SQLAlchemy's pool gives the connection again that it got last, and nothing runs in between.
        """
        connection.end()
        self._hold(self._engine.raw_connection())

    async def close(self) -> None:
        """Say goodbye to the server; for a connection that is at rest."""
        if self.driver.is_closed():
            self.terminate()
        else:
            await greenlet_spawn(self._proxied.invalidate)

    def terminate(self) -> None:
        """Close it as it is."""
        self.driver.terminate()
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.end()
            self._connection = None
        elif self._proxied.is_valid:
            self._proxied.invalidate()
