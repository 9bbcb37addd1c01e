"""SQLAlchemy's session on a step's connection: the step lends it and takes it back, the author only uses it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only

from tidelog.errors import NotSupportedError


class Earlier(Protocol):
    """What a session's statements come after."""

    @property
    def is_idle(self) -> bool: ...

    async def settle(self) -> None: ...


class LentSession(AsyncSession):
    """A session that gets its connection from `connection` when it is first used.

    After `end()` every use raises SQLAlchemy's InvalidRequestError.
    """

    def __init__(self, connection: Callable[[], Connection]) -> None:
        super().__init__(sync_session_class=_LentSyncSession, expire_on_commit=False, close_resets_only=False)
        self.sync_session.info["connection"] = connection

    def follow(self, earlier: Earlier) -> None:
        """From now on each statement waits for what `earlier` has begun by then."""
        self.sync_session.info["earlier"] = earlier

    async def end(self) -> None:
        await super().close()


class StepSession(LentSession):
    """What `context.db` is: a session in the step's transaction, which it never ends.

    `commit` and `rollback` are refused: a committed half of a step is what a step exists to prevent. For a
    part that may fail there is `begin_nested()`. `rolled_back` is called if SQLAlchemy rolls all of it back.
    """

    def __init__(self, connection: Callable[[], Connection], rolled_back: Callable[[], None]) -> None:
        super().__init__(connection)
        self.sync_session.info["rolled_back"] = rolled_back

    async def commit(self) -> NoReturn:
        raise NotSupportedError(
            "context.db.commit(): the step's transaction is committed when the handler returns; use "
            'context.db.begin_nested() for a savepoint, or "transaction": false in the step\'s config'
        )

    async def rollback(self) -> NoReturn:
        raise NotSupportedError(
            "context.db.rollback(): raise an exception to roll the whole step back, or use "
            "context.db.begin_nested() for the part that may fail"
        )

    async def reset(self) -> NoReturn:
        await self.rollback()

    async def close(self) -> None:
        """Nothing: the step closes it. (`async with context.db` is a habit that should not hurt.)"""

    async def flush_all(self) -> None:
        """Send what the ORM has pending. SQLAlchemy thinks that it commits; the real COMMIT is the step's."""
        await super().commit()


class AutocommitSession(LentSession):
    """`context.db` of a step without a transaction. `release` gives its connection back after each commit."""

    def __init__(self, connection: Callable[[], Connection], release: Callable[[], Awaitable[None]]) -> None:
        super().__init__(connection)
        self._release = release

    async def commit(self) -> None:
        """Send what the ORM has pending, and hold no connection until the next use."""
        await super().commit()
        await self._release()

    async def rollback(self) -> None:
        """Forget what the ORM has pending, and hold no connection until the next use."""
        await super().rollback()
        await self._release()

    async def close(self) -> None:
        """Like `rollback`; the session can be used on."""
        await self.rollback()

    async def end(self) -> None:
        await super().end()
        await self._release()


class _LentSyncSession(Session):
    def get_bind(self, *_: Any, **__: Any) -> Engine | Connection:
        earlier: Earlier | None = self.info.get("earlier")
        if earlier is not None and not earlier.is_idle:
            await_only(earlier.settle())
        connection: Connection = self.info["connection"]()
        return connection

    def begin(self, nested: bool = False) -> SessionTransaction:
        transaction = super().begin(nested)
        if nested:
            # SQLAlchemy says SAVEPOINT when the session is next used; writes to streams don't use it,
            # and would be outside.
            self.connection()
        return transaction


@event.listens_for(_LentSyncSession, "after_soft_rollback")
def _tell_the_step(session: Session, transaction: SessionTransaction) -> None:
    if not transaction.nested and "rolled_back" in session.info:
        session.info["rolled_back"]()
