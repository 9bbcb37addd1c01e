"""Whether the connections that Tidelog may open fit into what the role, the database and the server allow."""

from __future__ import annotations

import logging
from typing import Any

import asyncpg

from tidelog.store.connecting import told
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.liveness import Connect
from tidelog.store.queries import load

logger = logging.getLogger(__name__)

CONNECTION_LIMITS = load("connection_limits")

# Of one process: a reader, four of the archive, two for reads over HTTP, one of the workers, two of stream steps; and,
# in one of them all, the sequencer with its housekeeper and the one that deletes what has expired.
FEED_CONNECTIONS_MAX = 13


async def warn_if_short(connect: Connect, *, pool_size_max: int, workers: int) -> None:
    """Say in the log which limits are lower than what all processes may open. Nothing breaks by that: steps wait.

    A start doesn't fail for it, if the database can't be asked now.
    """
    wanted = workers * (pool_size_max + FEED_CONNECTIONS_MAX)
    try:
        connection = await connect()
        try:
            limits = await short_of(connection, wanted)
        finally:
            await connection.close()
    except CONNECTION_ERRORS as error:
        logger.warning("whether there is room for %d connections could not be asked: %s", wanted, told(error))
        return
    for limit in limits:
        logger.warning(
            "%s, but %d process(es) with %d connections for steps (TIDELOG_POOL_SIZE_MAX) and up to %d for the feed "
            "may want %d: steps will wait for each other. Raise the limit, or lower TIDELOG_POOL_SIZE_MAX",
            limit,
            workers,
            pool_size_max,
            FEED_CONNECTIONS_MAX,
            wanted,
        )


async def short_of(connection: asyncpg.Connection[Any], wanted: int) -> list[str]:
    """The limits that are lower than `wanted`, in words."""
    rows = await connection.fetch(CONNECTION_LIMITS)
    return [f"the {row['setting']} allows {row['allowed']}" for row in rows if row["allowed"] < wanted]
