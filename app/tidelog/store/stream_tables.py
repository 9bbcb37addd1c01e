"""The tables of declared streams: made by migrations, checked at start."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tidelog.errors import StreamsNotMigratedError, StreamTableError
from tidelog.model.stream import Stream
from tidelog.store import schema_check
from tidelog.store.queries import load
from tidelog.store.schema_check import Found, look_at_items

if TYPE_CHECKING:
    import asyncpg

EXAMINE_STREAMS = load("examine_streams")
DECLARE = "select streams.declare_stream($1, $2, $3::text::jsonb)"
STORED_SCHEMA = "select schema::text from streams.stream where name = $1"
LACKING_PARTS = load("lacking_parts")
MAKE_EXPIRING = "select streams.make_expiring($1, $2)"
MIGRATE = (
    "run `scripts/migrate` (where it is installed, `tidelog migrate`; with the plugin, `litestar tidelog migrate`)"
)

logger = logging.getLogger("tidelog.streams")


class Declared(NamedTuple):
    """What became of a stream's declaration: something was done, or could not be."""

    stream: Stream
    done: str | None
    trouble: str | None


def declare_streams(
    connection: Connection, streams: Iterable[Stream], accept: Collection[str] = ()
) -> Iterator[Declared]:
    """Make or mend what is to be, in the connection's transaction; one that can't be does not hinder the others.

    A new schema that stored items don't fit is taken only for the streams that `accept` names.
    """
    ends_at = time.monotonic() + schema_check.SECONDS_MAX
    for stream in streams:
        done = trouble = None
        try:
            with connection.begin_nested():
                done, trouble = _declare(connection, stream, ends_at, is_accepted=stream.name in accept)
                connection.exec_driver_sql("select streams.make_time_travel($1, $2)", (stream.name, stream.table))
                expiring = connection.exec_driver_sql(MAKE_EXPIRING, (stream.table, stream.ttl_seconds)).scalar_one()
            done = done or expiring  # of a new table it goes without saying
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            trouble = _told(error)
        if done or trouble:
            yield Declared(stream, done, trouble)


def _declare(
    connection: Connection, stream: Stream, ends_at: float, *, is_accepted: bool
) -> tuple[str | None, str | None]:
    """What was done, and what is for somebody to decide."""
    new = json.dumps(stream.schema.document)
    stored = connection.exec_driver_sql(STORED_SCHEMA, (stream.name,)).scalar_one_or_none()
    if stored is None or json.loads(stored) == json.loads(new):
        return _declare_as(connection, stream, new), None
    done = _declare_as(connection, stream, stored)  # the table is made good, whatever becomes of the schema
    found = look_at_items(connection, stream, json.loads(stored), ends_at)
    if found.misfits and not is_accepted:
        return done, _refusal(stream, found)
    _declare_as(connection, stream, new)
    notes = [done] if done else []
    if found.misfits:
        notes.append(f"took the new schema of stream {stream.name}, which {found} don't fit")
    elif not found.is_all:
        notes.append(
            f"took the new schema of stream {stream.name}: all fit of the {found.looked_at:,} items that were looked "
            f"at, of about {found.total:,}"
        )
    if found.unreadable:
        notes.append(f"{found.unreadable} items of stream {stream.name} can't be read, and were not checked")
    return "; ".join(notes) or None, None


def _refusal(stream: Stream, found: Found) -> str:
    more = "; ..." if found.misfits > len(found.shown) else ""
    return (
        f"its schema has changed, and {found}, which fit the schema of before, don't fit the new one: "
        f"{'; '.join(found.shown)}{more}. The database keeps the schema of before. Mend them in "
        f"streams.{stream.table}, and migrate again; or let them stay as they are, and take the new schema for what is "
        f"written from now on: `tidelog migrate --accept {stream.name}`"
    )


def _declare_as(connection: Connection, stream: Stream, schema: str) -> str | None:
    answer: str | None = connection.exec_driver_sql(DECLARE, (stream.name, stream.table, schema)).scalar_one()
    return answer


def _told(error: DBAPIError) -> str:
    """The database's message and hint."""
    cause = error.orig.__cause__ if error.orig is not None else None
    message, hint = getattr(cause, "message", None), getattr(cause, "hint", None)
    return str(error.orig) if message is None else f"{message}: {hint}" if hint else str(message)


def refuse_troubles(troubles: Iterable[Declared], of_indexes: Sequence[str] = ()) -> None:
    """Raise StreamTableError if there are any."""
    told = [f"stream {declared.stream.name}: {declared.trouble}" for declared in troubles]
    if told:
        raise StreamTableError("\n  ".join(["not all streams can be served:", *told, *of_indexes]))
    if of_indexes:
        raise StreamTableError("\n  ".join(["all streams are migrated, but not all of their indexes:", *of_indexes]))


def declaration_sql(stream: Stream) -> str:
    """The same as a statement of its own, for `alembic upgrade head --sql`."""
    schema = json.dumps(stream.schema.document).replace("'", "''")
    ttl = "null" if stream.ttl_seconds is None else stream.ttl_seconds
    return (
        f"select streams.declare_stream('{stream.name}', '{stream.table}', '{schema}'::jsonb), "
        f"streams.make_time_travel('{stream.name}', '{stream.table}'), "
        f"streams.make_expiring('{stream.table}', {ttl})"
    )


def parts_of(streams: Iterable[Stream]) -> tuple[list[str], list[float | None]]:
    """The parameters of lacking_parts.sql."""
    given = list(streams)
    return [stream.table for stream in given], [stream.ttl_seconds for stream in given]


async def check_stream_tables(connection: asyncpg.Connection[Any], streams: Iterable[Stream]) -> None:
    """Raise StreamsNotMigratedError or StreamTableError if what one of `streams` needs is not there."""
    declared = list(streams)
    names, tables = [stream.name for stream in declared], [stream.table for stream in declared]
    missing, unfit = [], []
    for name, is_missing, severity, trouble, remedy in await connection.fetch(EXAMINE_STREAMS, names, tables):
        if severity == "warn":
            logger.warning("stream %s: %s; %s", name, trouble, remedy)
        elif is_missing and severity == "mend":
            missing.append(name)
        else:
            unfit.append(f"stream {name}: {trouble}: {remedy or MIGRATE}")
    if not missing and not unfit:
        rows = await connection.fetch(LACKING_PARTS, *parts_of(declared))
        missing_parts = [f"{lacks}: {MIGRATE}" for _, lacks in rows if lacks]
        if missing_parts:
            raise StreamsNotMigratedError("\n  ".join(missing_parts))
    if missing:
        unfit.insert(0, f"no tables yet for the streams {', '.join(sorted(missing))}: {MIGRATE}")
    if unfit:
        kind = StreamsNotMigratedError if missing else StreamTableError
        raise kind("\n  ".join(unfit))
