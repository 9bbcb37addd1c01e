"""A step's transaction: begun when it is first used, committed or rolled back by the step.

Knows nothing of handlers, requests or answers. Connections come from SQLAlchemy's pool in AUTOCOMMIT mode,
and BEGIN and COMMIT are said here: only the command tag tells whether a COMMIT committed.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Self

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.util import await_only

from app.errors import CommitUnknownError, DatabaseUnavailableError, TransactionAbortedError
from app.store.checkout import Lent, Pool, Turns, raise_if_away
from app.store.failure import TROUBLE, is_away
from app.store.session import StepSession

logger = logging.getLogger(__name__)


class StepTransaction:
    """One transaction. It takes a connection and begins when it is first used; without a use it costs nothing.

    As an async context manager it lends its connection to one operation at a time, so that concurrent calls
    of a handler (asyncio.gather) queue up for it in their order.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._turns = Turns()
        self._lent: Lent | None = None
        self._session: StepSession | None = None
        self._session_rolled_back = False

    def lend(self) -> Self:
        return self

    @property
    def session(self) -> StepSession:
        """SQLAlchemy's session in this transaction."""
        self._turns.check()
        if self._session is None:
            self._session = StepSession(self._session_connection, self._note_rollback)
        return self._session

    async def commit(self) -> None:
        """Commit, or raise TransactionAbortedError, CommitUnknownError or the database's own error.

        After an error call `rollback`. The caller lets nothing cancel a COMMIT that is on its way.
        """
        if self._session is not None:
            await self._session.flush_all()
        await self._turns.end()
        if self._lent is not None:
            await self._say_commit(self._lent.driver)
        await self._give_back()

    async def rollback(self) -> None:
        """Break off what still runs and undo everything. Raises only what comes from outside: cancellation."""
        await self._turns.break_off()
        await self._give_back()

    async def __aenter__(self) -> asyncpg.Connection[Any]:
        await self._turns.take()
        try:
            lent = self._lent or await self._begin()
            # SQLAlchemy's lock around each statement: the author's `db` may be at work in another task.
            await lent.statement_lock.acquire()
        except BaseException:
            self._turns.leave()
            raise
        return lent.driver

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lent is not None  # noqa: S101 - entered
        self._lent.statement_lock.release()
        self._turns.leave()
        raise_if_away(error, self._lent.driver)

    async def _begin(self) -> Lent:
        lent = await self._pool.check_out()
        try:
            await lent.driver.execute("BEGIN")
        except BaseException as error:
            # A BEGIN that was cancelled may still begin: nobody else may have this connection.
            lent.driver.terminate()
            if isinstance(error, TROUBLE):
                raise DatabaseUnavailableError(f"BEGIN failed: {error}") from error
            raise
        finally:
            self._lent = lent
        return lent

    async def _say_commit(self, driver: asyncpg.Connection[Any]) -> None:
        if self._session_rolled_back:
            raise TransactionAbortedError("context.db was rolled back, and the handler went on")
        if driver.is_closed():
            raise DatabaseUnavailableError("the connection to the database broke before COMMIT")
        if not driver.is_in_transaction():
            raise TransactionAbortedError("the handler ended the transaction itself, by COMMIT or ROLLBACK in SQL")
        try:
            tag = await driver.execute("COMMIT")
        except TROUBLE as error:
            if is_away(error) or driver.is_closed():
                raise CommitUnknownError(f"the connection broke during COMMIT: {error}") from error
            raise
        if tag != "COMMIT":
            # Postgres answers COMMIT in a failed transaction with ROLLBACK, and no error:
            # https://www.postgresql.org/docs/current/sql-commit.html
            raise TransactionAbortedError("the handler went on after a database error that undid its work")

    async def _give_back(self) -> None:
        lent, self._lent = self._lent, None
        try:
            if self._session is not None:
                await self._session.end()
            if lent is not None and not lent.driver.is_closed() and lent.driver.is_in_transaction():
                await lent.driver.execute("ROLLBACK")
        except BaseException as error:
            # Whatever state the connection is in, nobody else may have it.
            if lent is not None:
                lent.driver.terminate()
            if not isinstance(error, Exception):
                raise
            logger.warning("a step's connection was closed, it could not be given back: %r", error)
        finally:
            if lent is not None:
                await self._pool.check_in(lent)

    def _session_connection(self) -> Connection:
        self._turns.check()
        lent = self._lent or await_only(self._begin_for_session())
        return lent.connection

    async def _begin_for_session(self) -> Lent:
        await self._turns.take()
        try:
            return self._lent or await self._begin()
        finally:
            self._turns.leave()

    def _note_rollback(self) -> None:
        self._session_rolled_back = True
