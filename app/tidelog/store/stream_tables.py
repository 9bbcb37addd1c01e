"""The tables of declared streams: made by migrations, checked at start."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from tidelog.errors import StreamsNotMigratedError, StreamTableError
from tidelog.model.stream import Stream
from tidelog.store.queries import load

EXAMINE_STREAMS = load("examine_streams")
MIGRATE = (
    "run `scripts/migrate` (where it is installed, `tidelog migrate`; with the plugin, `litestar tidelog migrate`)"
)

logger = logging.getLogger("tidelog.streams")


class Declared(NamedTuple):
    """What became of a stream's declaration: something was done, or could not be."""

    stream: Stream
    done: str | None
    trouble: str | None


def declare_streams(connection: Connection, streams: Iterable[Stream]) -> Iterator[Declared]:
    """Make or mend what is to be, in the connection's transaction; one that can't be does not hinder the others."""
    for stream in streams:
        done = trouble = None
        try:
            with connection.begin_nested():
                done = connection.exec_driver_sql(
                    "select streams.declare($1, $2, $3::text::jsonb)",
                    (stream.name, stream.table, json.dumps(stream.schema.document)),
                ).scalar_one()
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            trouble = _told(error)
        if done or trouble:
            yield Declared(stream, done, trouble)


def _told(error: DBAPIError) -> str:
    """The database's message and hint."""
    cause = error.orig.__cause__ if error.orig is not None else None
    message, hint = getattr(cause, "message", None), getattr(cause, "hint", None)
    return str(error.orig) if message is None else f"{message}: {hint}" if hint else str(message)


def refuse_troubles(troubles: Iterable[Declared]) -> None:
    """Raise StreamTableError if there are any."""
    told = [f"stream {declared.stream.name}: {declared.trouble}" for declared in troubles]
    if told:
        raise StreamTableError("\n  ".join(["not all streams can be served:", *told]))


def declaration_sql(stream: Stream) -> str:
    """The same as a statement of its own, for `alembic upgrade head --sql`."""
    schema = json.dumps(stream.schema.document).replace("'", "''")
    return f"select streams.declare('{stream.name}', '{stream.table}', '{schema}'::jsonb)"


async def check_stream_tables(connection: AsyncConnection, streams: Iterable[Stream]) -> None:
    """Raise StreamsNotMigratedError or StreamTableError if what one of `streams` needs is not there."""
    declared = list(streams)
    result = await connection.exec_driver_sql(
        EXAMINE_STREAMS, ([stream.name for stream in declared], [stream.table for stream in declared])
    )
    missing, unfit = [], []
    for row in result:
        name, is_missing, severity, trouble, remedy = tuple(row)
        if severity == "warn":
            logger.warning("stream %s: %s; %s", name, trouble, remedy)
        elif is_missing and severity == "mend":
            missing.append(name)
        else:
            unfit.append(f"stream {name}: {trouble}: {remedy or MIGRATE}")
    if missing:
        unfit.insert(0, f"no tables yet for the streams {', '.join(sorted(missing))}: {MIGRATE}")
    if unfit:
        kind = StreamsNotMigratedError if missing else StreamTableError
        raise kind("\n  ".join(unfit))
