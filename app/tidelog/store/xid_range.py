"""Between which transactions commits are: what the log's partitions are chosen by, before anything of them is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tidelog.store.queries import load

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[Any] | PoolConnectionProxy[Any]

XID_RANGE = load("xid_range")

LOWEST_HOLDS_FOR = 1000  # commits: one that is older is as right, and has some partition more looked at


XID_END = 2**64 - 1  # above all


class XidRange(NamedTuple):
    """Transactions from `low` on, below `high`, as the log has them."""

    low: int
    high: int


async def read_xid_range(connection: Connection, number: int, *, timeout_seconds: float) -> XidRange:
    """Where the commits from `number` on, up to a head that is known already, are."""
    row = await connection.fetchrow(XID_RANGE, number, timeout=timeout_seconds)
    assert row is not None  # noqa: S101 - a select of one row
    return XidRange(*row)


class LowestXid:
    """Of the commits to come, for one who follows the log on one connection: asked for now and then."""

    def __init__(self) -> None:
        self._number = -1
        self._lowest = 0

    async def of(self, connection: Connection, number: int, *, timeout_seconds: float) -> int:
        """At most the lowest xid of the commits from `number` on."""
        if not 0 <= number - self._number < LOWEST_HOLDS_FOR or self._number < 0:
            self._lowest = (await read_xid_range(connection, number, timeout_seconds=timeout_seconds)).low
            self._number = number
        return self._lowest
