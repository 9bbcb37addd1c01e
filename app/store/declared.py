"""The tables of declared streams: made by migrations, checked at start."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import StreamsNotMigratedError
from app.model.stream import Stream

MIGRATE = "run `scripts/migrate` (alembic upgrade head)"


def declare_streams(connection: Connection, streams: Iterable[Stream]) -> Iterator[Stream]:
    """Make what is missing in the connection's transaction; yields the streams whose tables it made."""
    for stream in streams:
        made = connection.exec_driver_sql(
            "select streams.declare($1, $2, $3::text::jsonb)",
            (stream.name, stream.table, json.dumps(stream.schema.document)),
        ).scalar_one()
        if made:
            yield stream


def declaration_sql(stream: Stream) -> str:
    """The same as a statement of its own, for `alembic upgrade head --sql`."""
    schema = json.dumps(stream.schema.document).replace("'", "''")
    return f"select streams.declare('{stream.name}', '{stream.table}', '{schema}'::jsonb)"


async def check_declared(connection: AsyncConnection, streams: Iterable[Stream]) -> None:
    """Raise StreamsNotMigratedError if the core or the table of one of `streams` is missing."""
    core = await connection.exec_driver_sql("select to_regclass('streams.commit') is not null")
    if not core.scalar_one():
        raise StreamsNotMigratedError(f"this database has no Tidelog tables yet: {MIGRATE}")
    result = await connection.exec_driver_sql(
        "select s.name, s.table_name from streams.stream s "
        "where to_regclass(format('streams.%I', s.table_name)) is not null"
    )
    migrated = {tuple(row) for row in result}
    missing = sorted(stream.name for stream in streams if (stream.name, stream.table) not in migrated)
    if missing:
        raise StreamsNotMigratedError(f"no tables yet for the streams {', '.join(missing)}: {MIGRATE}")
