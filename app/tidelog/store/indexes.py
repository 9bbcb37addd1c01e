"""The authors' own indexes of streams: made and dropped by migrations, beside writers.

CREATE INDEX CONCURRENTLY can't be in a transaction. So the migration's notes which indexes there are to be, and when it
is committed they are made one by one. What a killed migration leaves behind, the next one finds in that note.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import DBAPIError

from tidelog.errors import MigrationFailedError
from tidelog.model.index import Index
from tidelog.store.failure import is_lost
from tidelog.store.holders import INDEX_LOCK, read_holders
from tidelog.store.queries import load

if TYPE_CHECKING:
    from tidelog.model.stream import Stream

    Connection = asyncpg.Connection[Any]

STREAM_INDEXES = load("stream_indexes")
NOTE = (
    "update streams.stream set indexes = indexes || $2::text::jsonb where name = $1 and not indexes @> $2::text::jsonb"
)
FORGET = "update streams.stream set indexes = indexes - $2 where name = $1"
TAKE = f"select pg_try_advisory_lock(1953064044, {INDEX_LOCK})"
RELEASE = f"select pg_advisory_unlock(1953064044, {INDEX_LOCK})"

EMPTY_WAIT_MS = 100  # for a lock on a table without items: those that write there get their index in the other way
# For transactions that began earlier, which a concurrent statement must see end. `tidelog serve` has somebody waiting.
WAIT_SECONDS = 600
SERVER_WAIT_SECONDS = 10
POLL_SECONDS = 0.25
TELL_AGAIN_SECONDS = 30.0
STRANGERS_SECONDS = 3.0  # anybody can take the lock; who is no migration is not waited for

logger = logging.getLogger("tidelog.migrations")


def note_indexes(connection: SyncConnection, streams: Iterable[Stream]) -> None:
    """Note what there is to be, in the migration's transaction; and make it where a table has no items yet."""
    for stream in streams:
        if not stream.indexes:
            continue
        connection.exec_driver_sql(NOTE, (stream.name, _note(stream)))
        try:
            with connection.begin_nested():
                _make_on_empty(connection, stream)
        except DBAPIError as error:  # it is told by who makes them concurrently
            if error.connection_invalidated:
                raise


def _make_on_empty(connection: SyncConnection, stream: Stream) -> None:
    look = f"select exists (select from streams.{stream.table})"  # noqa: S608 - a validated identifier
    if connection.exec_driver_sql(look).scalar_one():
        return
    usual = connection.exec_driver_sql("select current_setting('lock_timeout')").scalar_one()
    connection.exec_driver_sql("select set_config('lock_timeout', $1, true)", (str(EMPTY_WAIT_MS),))
    for index in stream.indexes:
        connection.exec_driver_sql(index.make(stream.table, concurrently=False))
    connection.exec_driver_sql("select set_config('lock_timeout', $1, true)", (usual,))


def notes_sql(stream: Stream) -> Iterator[str]:
    """What note_indexes does, as statements."""
    if stream.indexes:
        note = _note(stream).replace("'", "''")
        yield f"update streams.stream set indexes = indexes || '{note}'::jsonb where name = '{stream.name}'"  # noqa: S608


def indexes_sql(stream: Stream) -> Iterator[str]:
    """Statements that make them, to be run outside of a transaction."""
    return (index.make(stream.table, concurrently=True) for index in stream.indexes)


def indexes_to_make(connection: SyncConnection, streams: Sequence[Stream]) -> Iterator[str]:
    """Statements for what is missing where the migration is in somebody else's transaction."""
    rows = connection.exec_driver_sql(STREAM_INDEXES, ([stream.name for stream in streams],)).all()
    valid = {row[1] for row in rows if row[3]}
    for stream in streams:
        for index in stream.indexes:
            if index.name not in valid:
                yield index.make(stream.table, concurrently=True)


async def what_indexes_lack(connection: Connection, streams: Sequence[Stream]) -> list[str]:
    """The streams of which an index is to be made or dropped."""
    rows = await connection.fetch(STREAM_INDEXES, [stream.name for stream in streams])
    lacking = []
    for stream in streams:
        valid = {row["name"] for row in rows if row["stream"] == stream.name and row["is_valid"]}
        noted = {row["name"] for row in rows if row["stream"] == stream.name}
        wanted = {index.name for index in stream.indexes}
        if wanted != noted or wanted != valid:
            lacking.append(stream.name)
    return lacking


async def make_indexes(connection: Connection, streams: Sequence[Stream], *, is_for_a_server: bool) -> list[str]:
    """Make and drop what is to be, on a connection without a transaction; answers what could not be done, and why.

    One that can't be made hinders no other. Beside another process that is at it, a server doesn't wait.
    """
    if not await what_indexes_lack(connection, streams):
        return []
    if not await _take_lock(connection, is_patient=not is_for_a_server):
        logger.warning("another migration makes indexes: this one leaves them to it")
        return []
    try:
        wait_seconds = SERVER_WAIT_SECONDS if is_for_a_server else WAIT_SECONDS
        await connection.execute(f"set lock_timeout = '{wait_seconds}s'")
        troubles = []
        rows = await connection.fetch(STREAM_INDEXES, [stream.name for stream in streams])
        for stream in streams:
            noted = [row for row in rows if row["stream"] == stream.name]
            troubles += await _bring_about(connection, stream, noted)
        return troubles
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise MigrationFailedError(f"the tables are migrated, the indexes not all: {error}; migrate again") from error
    finally:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await connection.execute("reset lock_timeout")
            await connection.fetchval(RELEASE)


async def _bring_about(connection: Connection, stream: Stream, noted: Sequence[Any]) -> list[str]:
    troubles = []
    wanted = {index.name: index for index in stream.indexes}
    file = f" ({stream.file})" if stream.file is not None else ""
    for row in noted:
        index = wanted.get(row["name"])
        if index is not None and row["is_valid"]:
            continue
        if index is not None and row["is_taken"]:
            troubles.append(
                f"stream {stream.name}{file}: the name of its index {index.name} is taken by something else"
            )
            continue
        try:
            if index is None:
                if row["is_there"]:
                    await connection.execute(f"drop index concurrently if exists streams.{row['name']}")
                await connection.execute(FORGET, stream.name, row["name"])
                logger.info("dropped the index %s, which stream %s doesn't declare any more", row["name"], stream.name)
            else:
                await _make(connection, stream, index, is_there=row["is_there"])
                logger.info("made the index %s of stream %s: %s", index.name, stream.name, index.declared)
        except asyncpg.PostgresError as error:
            if is_lost(error):
                raise
            what = f"{index.declared} can't be made" if index else f"{row['name']} can't be dropped"
            troubles.append(f"stream {stream.name}{file}: its index {what}: {_told(error)}")
    return troubles


async def _make(connection: Connection, stream: Stream, index: Index, *, is_there: bool) -> None:
    drop = f"drop index concurrently if exists streams.{index.name}"
    if is_there:  # not valid: a migration was killed in the middle of it
        await connection.execute(drop)
    try:
        await connection.execute(index.make(stream.table, concurrently=True))
    except asyncpg.PostgresError as error:
        if not is_lost(error):
            with suppress(asyncpg.PostgresError):
                await connection.execute(drop)  # what is left of it would cost writers, and serve nobody
        raise
    note = f"stream {stream.name}, by its declaration: {index.declared}".replace("'", "''")
    await connection.execute(f"comment on index streams.{index.name} is '{note}'")


def _told(error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.LockNotAvailableError):
        return "transactions that began before did not end: see pg_stat_activity, and migrate again"
    return f"{error.args[0]}{f' ({error.hint})' if error.hint else ''}"


async def _take_lock(connection: Connection, *, is_patient: bool) -> bool:
    """Wait for other migrations that make indexes; False if one is at it, and shall not be waited for."""
    since = time.monotonic()
    tell_at = 0.0
    while not await connection.fetchval(TAKE):
        holding = [holder for holder in await read_holders(connection, INDEX_LOCK) if holder.granted]
        if any(holder.is_migrator for holder in holding):
            if not is_patient:
                return False
            since = time.monotonic()
        elif time.monotonic() - since >= STRANGERS_SECONDS:
            return True
        if time.monotonic() >= tell_at and holding:
            tell_at = time.monotonic() + TELL_AGAIN_SECONDS
            logger.warning("waits for the lock of indexes, held by: %s", "; ".join(map(str, holding)))
        await asyncio.sleep(POLL_SECONDS)
    return True


def _note(stream: Stream) -> str:
    return json.dumps({index.name: index.declared for index in stream.indexes})
