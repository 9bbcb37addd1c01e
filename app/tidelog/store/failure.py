"""What a database error means for a step: try again, come back later, or a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tidelog.errors import CommitUnknownError, DatabaseUnavailableError, NoConnectionError, StepBusyError

# https://www.postgresql.org/docs/current/errcodes-appendix.html
CONFLICTS = frozenset({"40001", "40P01", "55P03"})  # serialization_failure, deadlock_detected, lock_not_available
TOO_MANY_CONNECTIONS = "53300"
# The server stops or starts, the database was dropped, the session was idle for too long
LOST = ("08", TOO_MANY_CONNECTIONS, "57P", "25P03", "25P04")
READ_ONLY = "25006"  # read_only_sql_transaction: the server was demoted, or was told to take no writes
TYPE_IS_GONE = "cache lookup failed for type"  # of a prepared statement; an internal error, so it isn't translated
# The function of PL/pgSQL that says that a plan's parameter has another type than when the plan was made: after a table
# was altered, of its triggers, until the session ends. (By its name, since messages are translated.)
PLAN_IS_OUTDATED = "plpgsql_param_eval"
# The function of Postgres in which a COMMIT that notifies fails if there is no room. Its error is one of class 54.
NOTIFY_QUEUE_IS_FULL = "PreCommit_Notify"
FAILED_BEFORE = "25P02"  # in_failed_sql_transaction
# What passes without anybody's doing anything about the statement: lost connections, conflicts, a full disk or
# memory, a lock that was waited for too long, a server that stops or starts, its I/O errors; and a server that was
# demoted, or lost patience.
PASSING = (*LOST, READ_ONLY, "40", "53", "55P03", "58")

# What it can be when a row's text can't be made: bytes that are no characters, more than a text may have, a damaged
# page or TOAST value; and more memory than there is.
OF_A_ROW = ("22", "54", "XX", "53200")
# What reading rows raises then; the second is asyncpg's. Ask is_of_a_row() which of the first.
ROW_ERRORS = (asyncpg.PostgresError, UnicodeDecodeError)

# What a lost, broken, silent or restarting database looks like from a connection. The last is asyncpg's when its
# connection ends in the middle of a statement ("cannot switch to state ...").
CONNECTION_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_NEXT_PART = re.compile(r"\n(?:DETAIL|HINT):\s*")  # of asyncpg's texts


def in_a_line(error: BaseException) -> str:
    """What it says; Postgres's detail and hint stand behind it, after a semicolon, and not on lines of their own."""
    try:
        said = str(error)
    except Exception as failed:  # of an author's __str__
        said = f"its text can't be had ({type(failed).__name__})"
    first, *parts = (" ".join(part.split()) for part in _NEXT_PART.split(said))
    return "; ".join([first.removesuffix(".") if parts else first, *map(_uncapitalized, parts)])


def _uncapitalized(sentence: str) -> str:
    """But not a name in capitals."""
    return sentence if sentence[:2].isupper() else sentence[:1].lower() + sentence[1:]


def is_conflict(error: BaseException) -> bool:
    """Whether the transaction lost against another one, so that the same again may succeed.

    Also if others' notifications fill the server's queue: what writers notify is left out a moment later.
    """
    return any(_sqlstate(one) in CONFLICTS or is_notify_queue_full(one) for one in _unfold(error))


def is_busy(error: BaseException) -> bool:
    """Whether the step's own other runs were in the way."""
    return any(isinstance(one, StepBusyError) for one in _unfold(error))


def is_lost(error: BaseException) -> bool:
    """Whether the database could not be reached or broke the connection off: what became of a COMMIT isn't known."""
    return any(_is_lost(one) for one in _unfold(error))


def is_crowded(error: BaseException) -> bool:
    """Whether the server, the database or the role has no room for one more connection."""
    return any(_sqlstate(one) == TOO_MANY_CONNECTIONS for one in _unfold(error))


def is_outdated(error: BaseException) -> bool:
    """Whether what the connection remembers of tables, types or statements is not true any more."""
    return any(_is_outdated(one) for one in _unfold(error))


def is_aftermath(error: BaseException) -> bool:
    """Whether it says no more than that the transaction had failed before."""
    return any(_sqlstate(one) == FAILED_BEFORE for one in _unfold(error))


def is_away(error: BaseException) -> bool:
    """Whether it was the connection's fault, and not the statement's: another one may do, now or some time later."""
    return any(_is_lost(one) or _is_outdated(one) or _sqlstate(one) == READ_ONLY for one in _unfold(error))


def is_passing(error: BaseException) -> bool:
    """Whether the same again, on a new connection, may succeed some time later."""
    return any(
        (_sqlstate(one) or "").startswith(PASSING) or _is_outdated(one) or is_notify_queue_full(one)
        for one in _unfold(error)
    )


def is_notify_queue_full(error: BaseException) -> bool:
    """Whether a transaction was rolled back because what it notifies has no room in the server's queue."""
    origin = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error
    return (
        isinstance(origin, asyncpg.ProgramLimitExceededError) and origin.server_source_function == NOTIFY_QUEUE_IS_FULL
    )


def is_of_a_row(error: Exception) -> bool:
    """Whether it may be what a row holds that a statement failed on, so that without the row it would not."""
    if isinstance(error, UnicodeDecodeError):
        return True
    return (_sqlstate(error) or "").startswith(OF_A_ROW) and not _is_outdated(error)


def may_run_again(error: BaseException) -> bool:
    """Whether a step that is undone may succeed at once: it lost against another, or its connection was no good.

    Not if there was no connection to be had: the step has waited for one already.
    """
    if isinstance(error, CommitUnknownError | NoConnectionError):
        return False
    return is_conflict(error) or is_away(error)


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, DatabaseUnavailableError | PoolTimeoutError | asyncpg.InternalClientError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return (_sqlstate(error) or "").startswith(LOST)


def _is_outdated(error: BaseException) -> bool:
    """Of asyncpg's errors; SQLAlchemy's have them as their cause."""
    if isinstance(error, asyncpg.InternalServerError):
        return TYPE_IS_GONE in str(error)
    if isinstance(error, asyncpg.DatatypeMismatchError):
        return (error.server_source_function or "").startswith(PLAN_IS_OUTDATED)
    return isinstance(
        error,
        asyncpg.InvalidCachedStatementError | asyncpg.InvalidSQLStatementNameError | asyncpg.OutdatedSchemaCacheError,
    )


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
