"""The partitions of the log: made ahead, so that no write lacks one, and dropped whole when nobody can read them.

What is done is in functions of the database, which run with the rights of the tables' owner.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from tidelog.store.queries import load

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

LOG_PARTITIONS = load("log_partitions")
PARTITION_WIDTH = load("partition_width")

# About a million rows of a chat's size. There are so many times fewer of them than of rows, to drop or look into; and
# the indexes of the one that is written to stay in memory.
PARTITION_SIZE_BYTES = 256 * 1024 * 1024
WIDTH_FIRST = 2**20  # transactions, as long as nothing is known of their size
WIDTH_MIN = 2**14  # a few seconds' worth of a busy server: a partition costs each statement some microseconds
WIDTH_MAX = 2**26
# With a retention a partition is dropped when its last commit is old enough: its first one is then this much older.
FILLED_IN_SHARE_OF_RETENTION = 0.25


class Partition(NamedTuple):
    """One that has commits: its transactions are from `low` on, below `high`."""

    low: int
    high: int
    full_for: timedelta | None  # the age of its last commit; None while it is in use

    def goes_soon(self, retention: timedelta) -> bool:
        """Whether it is dropped soon: its old changes are left to that. Where they would stay long, they go by rows."""
        return self.full_for is not None and self.full_for >= retention * (1 - FILLED_IN_SHARE_OF_RETENTION)


async def read_partitions(connection: Connection) -> list[Partition]:
    """Those that have commits, in their order."""
    return [Partition(*row) for row in await connection.fetch(LOG_PARTITIONS)]


async def make_room(connection: Connection, retention: timedelta | None) -> int | None:
    """See to it that the next partitions are there; returns how many were made, None if it can't be now.

    It isn't while a transaction that has used the log for a while is open: others would wait behind us.
    """
    filled_in = None if retention is None else retention * FILLED_IN_SHARE_OF_RETENTION / 2
    width = await connection.fetchval(PARTITION_WIDTH, PARTITION_SIZE_BYTES, filled_in) or WIDTH_FIRST
    return await _call(connection, "select streams.make_room($1)", min(max(width, WIDTH_MIN), WIDTH_MAX))


async def drop_partitions(connection: Connection) -> int | None:
    """Drop those that nobody can read any more; returns how many, None if now is not the time."""
    return await _call(connection, "select streams.drop_partitions()")


async def _call(connection: Connection, query: str, *arguments: object) -> int | None:
    try:
        done: int = await connection.fetchval(query, *arguments)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.ObjectInUseError):
        return None
    except asyncpg.InsufficientPrivilegeError:
        return None  # the start has warned of it (missing_grants.sql), and all else is to be done
    return done
