"""What `tidelog jobs` runs: what waits, and what was given up; and what is to become of that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.errand import run
from tidelog.errors import JobUnknownError, StreamsNotMigratedError
from tidelog.store.stream_tables import MIGRATE

if TYPE_CHECKING:
    from tidelog.settings import Settings
    from tidelog.store.connecting import Connector

    Connection = asyncpg.Connection[Any]

SHOWN_MAX = 100
WIDTH_MAX = 120  # of an error
WAITING = """
select step, count(*) as waiting, count(*) filter (where is_claimed) as running, max(attempts) as attempts,
    extract(epoch from clock_timestamp() - min(emitted_at))::bigint as seconds, max(error) as error
from streams.step_job group by step order by step
"""
PARKED = """
select id, step, topic, key, attempts, error, to_char(parked_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') as at
from streams.step_parked where $1::text is null or step = $1 order by id limit $2
"""
ONE = "select *, jsonb_pretty(input) as shown from streams.step_parked where id = $1"


def main(errand: Callable[[Connection], Awaitable[str]]) -> None:
    """Print what the errand answers; ends the process with a message and status 1 if it can't be done."""

    async def ask(connect: Connector, _settings: Settings) -> str:
        connection = await connect()
        try:
            return await errand(connection)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            raise StreamsNotMigratedError(f"this database has no queue yet: {MIGRATE}") from error
        finally:
            await connection.close()

    print(run(ask))  # noqa: T201 - this is a command's output


async def show(connection: Connection, step: str | None) -> str:
    """What waits by steps, and each job that was given up."""
    lines = [
        f"waiting  {row['step']}: {row['waiting']}, of which {row['running']} run; the oldest is {row['seconds']} s old"
        + (f"; attempts {row['attempts']}, {_clip(row['error'])}" if row["attempts"] else "")
        for row in await connection.fetch(WAITING)
        if step in (None, row["step"])
    ]
    parked = await connection.fetch(PARKED, step, SHOWN_MAX + 1)
    lines += [
        f"parked   {row['id']}  {row['at']} UTC  {row['step']} ({row['topic']}), attempts {row['attempts']}: "
        + _clip(row["error"])
        for row in parked[:SHOWN_MAX]
    ]
    if len(parked) > SHOWN_MAX:
        lines.append("and more: select * from streams.step_parked")
    return "\n".join(lines) or "nothing waits, and nothing is parked"


async def show_one(connection: Connection, id: int) -> str:
    """All of one that was given up."""
    row = await connection.fetchrow(ONE, id)
    if row is None:
        raise JobUnknownError(id, None)
    names = ("id", "step", "topic", "key", "trace_id", "emitted_at", "parked_at", "attempts", "error")
    return "\n".join([*(f"{name}: {row[name]}" for name in names), f"input: {row['shown']}", row["traceback"]])


async def retry(connection: Connection, id: int | None, step: str | None) -> str:
    """Raises JobUnknownError, and so do the others: a mistyped number looks as if it had helped."""
    count = await connection.fetchval("select streams.retry_parked($1, $2)", id, step)
    if not count:
        raise JobUnknownError(id, step)
    return f"{count} to be tried again"


async def drop(connection: Connection, id: int | None, step: str | None) -> str:
    count = await connection.fetchval("select streams.drop_parked($1, $2)", id, step)
    if not count:
        raise JobUnknownError(id, step)
    return f"{count} dropped"


def _clip(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= WIDTH_MAX else f"{line[:WIDTH_MAX]}..."
