"""One migration at a time: the lock that each takes, and who keeps it waiting."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tidelog.store.failure import is_conflict
from tidelog.store.holders import LOCK_HOLDERS, MIGRATION_LOCK, Holder

logger = logging.getLogger("tidelog.migrations")

MIGRATION_NAME = "tidelog migrate"
# Whatever role and database have for others' sessions: an index of a large log takes minutes, and who has waited for
# another migration must see what that has made.
MIGRATION_SETTINGS = {
    "application_name": MIGRATION_NAME,
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
}
SAY_WHO = "select set_config('application_name', $1, true)"  # to the end of the transaction, as the lock is held
TAKE = f"select pg_try_advisory_xact_lock(1953064044, {MIGRATION_LOCK})"  # "tidl" in ASCII
# The lock that no stranger can take; there is no such table before the first migration.
HAS_VERSIONS = "select to_regclass('streams.alembic_version') is not null"
LOCK_VERSIONS = "lock table streams.alembic_version in share row exclusive mode nowait"

POLL_SECONDS = 0.25
TELL_AGAIN_SECONDS = 30.0  # another migration may take minutes: an index of a large log
STRANGERS_SECONDS = 3.0  # sessions that were told to end are gone by then; others are not waited for


def take_migration_lock(connection: Connection) -> None:
    """Wait for other migrations to end; to be held to the end of the connection's transaction. Says who is waited for.

    A session that is no migration's is ended. If this role may not end it, it is not waited for: then two migrations
    are kept apart by the table of versions. (The first two of a database, by names that both want to make: one fails.)
    """
    connection.exec_driver_sql(SAY_WHO, (MIGRATION_NAME,))  # an application's own connection has another name
    strangers_since: float | None = None
    tell_at = 0.0
    while not connection.exec_driver_sql(TAKE).scalar_one():
        now = time.monotonic()
        holders = [Holder(*row) for row in connection.exec_driver_sql(LOCK_HOLDERS, (MIGRATION_LOCK,))]
        holding = [holder for holder in holders if holder.granted]
        if now >= tell_at and holding:
            tell_at = now + TELL_AGAIN_SECONDS
            logger.warning("waits for the lock of migrations, held by: %s", "; ".join(map(str, holding)))
        for holder in holders:
            if not holder.is_migrator:
                _end(connection, holder.pid)
        if any(not holder.is_migrator for holder in holding):
            strangers_since = strangers_since or now
            if now - strangers_since >= STRANGERS_SECONDS:
                logger.warning("its holder is no migration, and this role may not end it: goes on without the lock")
                break
        else:
            strangers_since = None
        time.sleep(POLL_SECONDS)


def lock_versions(connection: Connection) -> None:
    """What keeps two migrations apart also where a stranger has the lock; waits for the other one, and says so."""
    if not connection.exec_driver_sql(HAS_VERSIONS).scalar_one():
        return
    tell_at = 0.0
    while True:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(LOCK_VERSIONS)
            return
        except DBAPIError as error:
            if not is_conflict(error):
                raise
        if time.monotonic() >= tell_at:
            tell_at = time.monotonic() + TELL_AGAIN_SECONDS
            logger.warning("waits for streams.alembic_version, which another session has locked (see pg_locks)")
        time.sleep(POLL_SECONDS)


def _end(connection: Connection, pid: int | None) -> None:
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("select pg_terminate_backend($1)", (pid,))
    except DBAPIError as error:  # it may not be ended by this role
        if error.connection_invalidated:
            raise
