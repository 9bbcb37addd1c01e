"""A step's transaction: begun when it is first used, committed or rolled back by the step.

Knows nothing of handlers, requests or answers. Connections come from SQLAlchemy's pool in AUTOCOMMIT mode,
and BEGIN and COMMIT are said here: only the command tag tells whether a COMMIT committed.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any, Self

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.util import await_only

from tidelog.errors import CommitUnknownError, DatabaseUnavailableError, TransactionAbortedError
from tidelog.store.asking import Lend, ask
from tidelog.store.checkout import TRIES_MAX, AskAgainError, Turns
from tidelog.store.failure import CONNECTION_ERRORS, is_lost
from tidelog.store.lent import NEVER, Lent
from tidelog.store.origin import NOBODY, Origin
from tidelog.store.queries import load
from tidelog.store.session import StepSession
from tidelog.store.share import Share

WHICH = load("which_transaction")

logger = logging.getLogger(__name__)


def begin_with(origin: Origin = NOBODY, *, idle_timeout_seconds: float | None = None) -> str:
    """BEGIN, and who writes; in one round trip.

    With a limit for the time between two statements, if it isn't to be the connection's; 0 is none.
    """
    begin = f"BEGIN; SET LOCAL tidelog.origin = {origin.setting}"
    if idle_timeout_seconds is not None:
        begin += f"; SET LOCAL idle_in_transaction_session_timeout = {round(idle_timeout_seconds * 1000)}"
    return begin


BEGIN = begin_with()


class StepTransaction:
    """One transaction. It takes a connection and begins when it is first used; without a use it costs nothing.

    As an async context manager it lends its connection to one operation at a time, so that concurrent calls
    of a handler (asyncio.gather) queue up for it in their order.
    """

    def __init__(self, pool: Share, begin: str = BEGIN) -> None:
        """`begin` is what begins it; see begin_with."""
        self._pool = pool
        self._begin_sql = begin
        self._turns = Turns()
        self._lent: Lent | None = None
        self._is_untouched = True  # nothing was asked in it yet but what failed
        self._failed = 0  # connections that were no good
        self._is_asked_again = False
        self._session: StepSession | None = None
        self._session_rolled_back = False
        self._may_be_committed = False
        self.transaction: int | None = None  # its id, if it wrote something; once it is committed
        self.is_transaction_known = True

    def note_transaction(self, transaction: int) -> None:
        """A write has told its id."""
        self.transaction = transaction

    def lend(self, writes: bool) -> Self:
        return self

    def may_have_stored(self, error: BaseException) -> bool:
        """Whether something stays of a step that `error` ended. What else became of a COMMIT, that says itself."""
        return self._may_be_committed and isinstance(error, asyncio.CancelledError)

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
            await self._say_commit(self._lent)
        await self._give_back()

    async def rollback(self) -> None:
        """Break off what still runs and undo everything. Raises only what comes from outside: cancellation."""
        await self._turns.break_off()
        await self._give_back()

    async def __aenter__(self) -> asyncpg.Connection[Any]:
        if self._is_asked_again:
            self._is_asked_again = False
        else:
            await self._turns.take()
        try:
            lent = self._lent or await self._begin()
            # SQLAlchemy's lock around each statement: the author's `db` may be at work in another task.
            await lent.statement_lock.acquire()
        except BaseException:
            self._turns.leave()
            raise
        lent.expect_answer()
        return lent.driver

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lent = self._lent
        assert lent is not None  # noqa: S101 - entered
        lent.due_at = NEVER
        lent.statement_lock.release()
        is_away = error is not None and self._pool.note_error(lent, error)
        if is_away and self._is_untouched and self._failed + 1 < TRIES_MAX:
            self._failed += 1
            self._lent = None
            lent.driver.terminate()
            await self._pool.check_in(lent)
            self._is_asked_again = True
            raise AskAgainError from error
        self._is_untouched = False
        self._turns.leave()
        if is_away:
            raise DatabaseUnavailableError(f"the connection to the database is no good: {error}") from error

    async def _begin(self) -> Lent:
        """On a connection that lets us: one that was idle may have died unnoticed."""
        while self._lent is None:
            lent = await self._pool.check_out()
            lent.expect_answer()
            try:
                await lent.driver.execute(self._begin_sql)
            except BaseException as error:
                # A BEGIN that was cancelled may still begin: nobody else may have this connection.
                lent.driver.terminate()
                self._failed += 1
                is_trouble = isinstance(error, CONNECTION_ERRORS) and self._pool.note_error(lent, error)
                await self._pool.check_in(lent)
                if not is_trouble:
                    raise
                if self._failed >= TRIES_MAX:
                    raise DatabaseUnavailableError(f"BEGIN failed: {error}") from error
            else:
                self._lent = lent
            finally:
                lent.due_at = NEVER
        return self._lent

    async def _say_commit(self, lent: Lent) -> None:
        driver = lent.driver
        if self._session is not None and self.transaction is None:
            await self._ask_which(lent)
        if self._session_rolled_back:
            raise TransactionAbortedError("context.db was rolled back, and the handler went on")
        if driver.is_closed():
            raise DatabaseUnavailableError("the connection to the database broke before COMMIT")
        if not driver.is_in_transaction():
            raise TransactionAbortedError("the handler ended the transaction itself, by COMMIT or ROLLBACK in SQL")
        lent.expect_answer()
        self._may_be_committed = True
        try:
            tag = await driver.execute("COMMIT")
        except CONNECTION_ERRORS as error:
            self._pool.note_error(lent, error)
            if is_lost(error) or driver.is_closed():
                raise CommitUnknownError(f"the connection broke during COMMIT: {error}") from error
            raise
        finally:
            lent.due_at = NEVER
        self._may_be_committed = tag == "COMMIT"
        if tag != "COMMIT" and lent.is_spent:
            raise DatabaseUnavailableError("the connection to the database was no good, and the handler went on")
        if tag != "COMMIT":
            # Postgres answers COMMIT in a failed transaction with ROLLBACK, and no error:
            # https://www.postgresql.org/docs/current/sql-commit.html
            raise TransactionAbortedError("the handler went on after a database error that undid its work")

    async def _ask_which(self, lent: Lent) -> None:
        """What an author's SQL wrote, nobody has told. Without an answer COMMIT finds out what is wrong."""
        lent.expect_answer()
        try:
            self.transaction = await lent.driver.fetchval(WHICH)
        except CONNECTION_ERRORS as error:
            self._pool.note_error(lent, error)
            self.is_transaction_known = False
        finally:
            lent.due_at = NEVER

    async def _give_back(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.expect_answer()
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
                lent.due_at = NEVER
                await self._pool.check_in(lent)

    def _session_connection(self) -> Connection:
        self._turns.check()
        lent = self._lent or await_only(self._begin_for_session())
        self._is_untouched = False
        if lent.is_closed:  # SQLAlchemy would open another one, outside of the transaction
            raise DatabaseUnavailableError("the connection to the database broke")
        return lent.connection

    async def _begin_for_session(self) -> Lent:
        await self._turns.take()
        try:
            return self._lent or await self._begin()
        finally:
            self._turns.leave()

    def _note_rollback(self) -> None:
        self._session_rolled_back = True


async def which_transaction(lend: Lend) -> int | None:
    """The id, as the log has it, of the transaction in which `lend` lends; None if it has written nothing so far."""
    rows = await ask(lend, False, WHICH)
    return None if rows[0][0] is None else int(rows[0][0])
