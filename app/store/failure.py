"""What a database error means for a step: try again, come back later, or a mistake."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.errors import DatabaseUnavailableError

# https://www.postgresql.org/docs/current/errcodes-appendix.html
CONFLICTS = frozenset({"40001", "40P01", "55P03"})  # serialization_failure, deadlock_detected, lock_not_available
AWAY = frozenset({"53300", "57P01", "57P02", "57P03"})  # too_many_connections, the server stops or starts
CONNECTION_CLASS = "08"
# What passes without anybody's doing anything about the statement: lost connections, conflicts, a full disk or
# memory, a lock that was waited for too long, a server that stops or starts, its I/O errors; and a server that was
# demoted, or lost patience.
PASSING = (CONNECTION_CLASS, "40", "53", "55P03", "57P", "58", "25006", "25P03")

# What a lost, broken, silent or restarting database looks like from a connection. The last is asyncpg's when its
# connection ends in the middle of a statement ("cannot switch to state ...").
TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def is_conflict(error: BaseException) -> bool:
    """Whether the transaction lost against another one, so that the same again may succeed."""
    return any(_sqlstate(one) in CONFLICTS for one in _unfold(error))


def is_away(error: BaseException) -> bool:
    """Whether the database could not be reached or broke the connection off."""
    return any(_is_away(one) for one in _unfold(error))


def is_passing(error: BaseException) -> bool:
    """Whether the same again, on a new connection, may succeed some time later."""
    return any((_sqlstate(one) or "").startswith(PASSING) for one in _unfold(error))


def _is_away(error: BaseException) -> bool:
    if isinstance(error, DatabaseUnavailableError | PoolTimeoutError | asyncpg.InternalClientError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = _sqlstate(error)
    return state is not None and (state in AWAY or state.startswith(CONNECTION_CLASS))


def _sqlstate(error: BaseException) -> str | None:
    origin = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(origin, asyncpg.PostgresError) or origin is not error:
        state = getattr(origin, "sqlstate", None)
        return state if isinstance(state, str) else None
    return None


def _unfold(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and the members of groups (asyncio.TaskGroup raises those)."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            pending.extend(one.exceptions)
        if one.__cause__ is not None:
            pending.append(one.__cause__)
