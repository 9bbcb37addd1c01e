"""Operations on streams in the transaction of a session that an application has of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import asyncpg
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from tidelog.errors import NotSupportedError, StepEndedError


class BorrowedWork:
    """Begins, commits and rolls back nothing: that is the session's owner's to do, and so is the order of statements.

    Database errors come as SQLAlchemy's, as for everything else in the session. Concurrent calls take turns: a session
    has one connection, and two statements at once on it fail, or wait for each other for ever.
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._turn = asyncio.Lock()
        self._is_over = False

    def end(self) -> None:
        """Whoever had it has ended: what a task of its own does from here on would be in nobody's transaction."""
        self._is_over = True

    def lend(self, writes: bool) -> Self:
        return self

    def note_transaction(self, transaction: int) -> None:
        """It is the session's owner's."""

    async def __aenter__(self) -> Self:
        await self._turn.acquire()
        if self._is_over:
            self._turn.release()
            raise StepEndedError
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn.release()

    async def fetch(self, sql: str, *parameters: Any) -> Sequence[Any]:
        """The rows, as asyncpg's connections fetch them."""
        connection = await self._session.connection()
        if connection.dialect.driver != "asyncpg":
            raise NotSupportedError(
                f"streams work in a session on asyncpg, not on {connection.dialect.driver}: "
                "make its engine for postgresql+asyncpg://"
            )
        try:
            result = await connection.exec_driver_sql(sql, parameters)
            return result.all() if result.returns_rows else []
        except IntegrityError as error:
            cause = getattr(error.orig, "__cause__", None)
            if isinstance(cause, asyncpg.CheckViolationError):  # a refusal of the stream's, which Items words
                raise cause from error
            raise
