"""A step without a transaction: every operation takes a connection, commits by itself and gives it back."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Self

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.util import await_only

from tidelog.errors import DatabaseUnavailableError
from tidelog.store.checkout import TRIES_MAX, AskAgainError, Turns
from tidelog.store.failure import is_lost
from tidelog.store.lent import NEVER, Lent
from tidelog.store.origin import NOBODY, Origin
from tidelog.store.session import AutocommitSession
from tidelog.store.share import Share

logger = logging.getLogger(__name__)


class StepAutocommit:
    """For handlers that take long. Operations still run one after the other, in the order of the calls."""

    def __init__(self, pool: Share, origin: Origin = NOBODY) -> None:
        self._pool = pool
        self._origin = origin.setting
        self._turns = Turns()
        self._lent: Lent | None = None
        self._failed = 0  # connections in a row that were no good
        self._is_asked_again = False
        self._session: AutocommitSession | None = None
        self._session_lent: Lent | None = None
        self._session_uses = 0  # statements that the session was about to send
        self._is_the_sessions = False  # what `_lent` is
        self._has_written = False  # something was stored, or may have been
        self._writing = _Writing(self)
        self.transaction: int | None = None  # the id of the last operation's that wrote

    @property
    def is_transaction_known(self) -> bool:
        """What the session's statements wrote, each by itself, nobody has told."""
        return not self._session_uses

    def note_transaction(self, transaction: int) -> None:
        """A write has told its id. The one before it was over, so its number is lower, or it has none."""
        self.transaction = transaction

    def lend(self, writes: bool) -> Self | _Writing:
        return self._writing if writes else self

    async def tell_origin(self, lent: Lent | None = None) -> None:
        """Have the writes of the lent connection be this step's. Where they were before, nothing is asked."""
        lent = lent or self._lent
        assert lent is not None  # noqa: S101 - entered
        if lent.origin != self._origin:
            await lent.driver.execute(f"SET tidelog.origin = {self._origin}")
            lent.origin = self._origin

    def may_have_stored(self, error: BaseException) -> bool:
        """Whether something stays of a step that `error` ended."""
        # Of its session's first statement nothing does if the server refused it. Of what was before a later one we
        # know nothing.
        return self._has_written or self._session_uses > 1 or (self._session_uses > 0 and is_lost(error))

    def note_write(self, error: BaseException | None) -> None:
        """What came of a write. What the server refused was not done; if the answer is missing, it may have been."""
        if not isinstance(error, asyncpg.PostgresError) or is_lost(error):
            self._has_written = True

    @property
    def session(self) -> AutocommitSession:
        """In AUTOCOMMIT mode; it keeps a connection from its first use until its `commit()` or the step's end."""
        self._turns.check()
        if self._session is None:
            self._session = AutocommitSession(self._lend_session, self._release_session)
        return self._session

    async def commit(self) -> None:
        """Wait for the operations that were begun; they have committed themselves."""
        if self._session is not None:
            await self._session.commit()
        await self._turns.end()
        await self._end_session()

    async def rollback(self) -> None:
        """Break off what still runs. What was done stays done."""
        await self._turns.break_off()
        await self._end_session()

    async def __aenter__(self) -> asyncpg.Connection[Any]:
        if self._is_asked_again:
            self._is_asked_again = False
        else:
            await self._turns.take()
        if self._session_uses:
            self._has_written = True  # perhaps, if that went well
        try:
            self._lent = await self._borrow_from_session() or await self._pool.check_out()
        except BaseException:
            self._turns.leave()
            raise
        self._lent.expect_answer()
        return self._lent.driver

    async def _borrow_from_session(self) -> Lent | None:
        """The connection that the session has: runs that wait for a second one each would keep each other waiting.

        Not in a transaction that the author began in SQL: operations commit by themselves.
        """
        lent = self._session_lent
        if lent is None or lent.is_closed or lent.is_spent:
            return None
        await lent.statement_lock.acquire()
        self._is_the_sessions = lent is self._session_lent and not lent.driver.is_in_transaction()
        if not self._is_the_sessions:
            lent.statement_lock.release()
            return None
        return lent

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lent = self._lent
        assert lent is not None  # noqa: S101 - entered
        lent.due_at = NEVER
        is_away = error is not None and self._pool.note_error(lent, error)
        self._failed = self._failed + 1 if is_away else 0
        # What the server refused was not done. If the connection broke, it may have been.
        if error is not None and is_away and not lent.is_closed and not is_lost(error) and self._failed < TRIES_MAX:
            self._is_asked_again = True
        try:
            if self._is_the_sessions:
                self._is_the_sessions = False
                lent.statement_lock.release()
            else:
                await self._pool.check_in(lent)
        except BaseException:
            self._is_asked_again = False
            raise
        finally:
            if not self._is_asked_again:
                self._turns.leave()
        if self._is_asked_again:
            raise AskAgainError from error
        if is_away:
            raise DatabaseUnavailableError(f"the connection to the database is no good: {error}") from error

    def _lend_session(self) -> Connection:
        self._turns.check()
        lent = self._session_lent
        if lent is None or lent.is_closed:
            lent = await_only(self._check_out_for_session())
        self._session_uses += 1
        return lent.connection

    async def _check_out_for_session(self) -> Lent:
        # In its turn: of two calls at once one checks out, and none does when the step has ended.
        await self._turns.take()
        try:
            if self._session_lent is not None and self._session_lent.is_closed:
                await self._release_session()
            if self._session_lent is None:
                self._session_lent = await self._pool.check_out()
                with self._session_lent.answering():
                    await self.tell_origin(self._session_lent)
            return self._session_lent
        finally:
            self._turns.leave()

    async def _release_session(self) -> None:
        lent = self._session_lent
        if lent is None:
            return
        async with lent.statement_lock:  # which an operation on a stream may have
            if self._session_lent is not lent:
                return
            self._session_lent = None
        await self._pool.check_in(lent)

    async def _end_session(self) -> None:
        if self._session is None:
            return
        try:
            await self._session.end()
        except BaseException as error:
            if self._session_lent is not None:
                self._session_lent.driver.terminate()
            await self._release_session()
            if not isinstance(error, Exception):
                raise
            logger.warning("a step's session was broken off, it could not be closed: %r", error)


class _Writing:
    """What lends a step's connection for a write."""

    def __init__(self, work: StepAutocommit) -> None:
        self._work = work
        self.note_transaction = work.note_transaction

    async def __aenter__(self) -> asyncpg.Connection[Any]:
        connection = await self._work.__aenter__()
        try:
            await self._work.tell_origin()
        except BaseException as error:
            await self._work.__aexit__(type(error), error, error.__traceback__)
            raise
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.note_write(error)
        await self._work.__aexit__(kind, error, trace)
