"""Erasing what somebody asks to have erased: from the items, the history, and the files of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.errors import ErasureError

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

    Connection = asyncpg.Connection[Any]

# Where rows of the group are: a partition that has none need not be vacuumed.
PARTITIONS = """
    select distinct c.tableoid::regclass::text as partition
    from streams.change c where c.stream = $1 and c.group_id = $2
"""


async def erase(connect: Connector, stream: str, group_id: str, id: str | None) -> int:
    """Erase an item, or a group (`id` None); returns how many rows of the log it was in.

    Raises ErasureError if there is no such stream, or the role may not.
    """
    connection = await connect()
    try:
        erased: int = await connection.fetchval("select streams.erase($1, $2, $3)", stream, group_id, id)
        partitions = [row["partition"] for row in await connection.fetch(PARTITIONS, stream, group_id)]
        table = await connection.fetchval(
            "select format('streams.%I', table_name) from streams.stream where name = $1", stream
        )
        for relation in (table, "streams.event", "streams.step_job", "streams.step_parked", *partitions):
            await connection.execute(f"vacuum {relation}")
    except asyncpg.PostgresError as error:
        raise ErasureError(f"Postgres refused it: {error}") from error
    finally:
        await connection.close()
    return erased
