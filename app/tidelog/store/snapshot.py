"""A group's items (or one item) exactly as of a known place in the feed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import asyncpg

from tidelog.errors import ItemUnreadableError
from tidelog.store.epoch import known_epoch
from tidelog.store.failure import ROW_ERRORS, in_a_line, is_of_a_row, is_outdated, is_passing
from tidelog.store.prefetch import prefetch
from tidelog.store.queries import load

if TYPE_CHECKING:
    from tidelog.store.reading import Connection

SNAPSHOT_HEAD = load("snapshot_head")
READ_ITEMS = load("read_items")
# Rows are fetched so many at a time that about this much is in memory, by the size of those before; and as
# much again, which is fetched meanwhile. With more, the database waits while they are handled: no more than this
# fits in the socket. With less it waits for the next fetch.
FETCH_BYTES = 256 * 1024
FETCH_ROWS_FIRST = 64
FETCH_ROWS_MAX = 4096

Columns = Literal["id, data", "id, version, data"]  # data comes as JSON text

LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"


class ItemsUnreadableError(Exception):
    """The stream's table can't be read, for a reason of its own: all others may be."""

    def __init__(self, cause: BaseException, *, may_pass: bool = False) -> None:
        super().__init__(in_a_line(cause))
        self.cause = cause
        self.may_pass = may_pass  # without anybody's doing anything about it

    @property
    def is_outdated(self) -> bool:
        """Whether the connection only remembers the table as it was before somebody altered it."""
        return is_outdated(self.cause)


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """What a snapshot is of: every commit up to `number`, and the transactions in `unnumbered`.

    The latter are visible but have no number yet: to go on from here, skip these when they come.
    """

    number: int
    epoch: str
    unnumbered: frozenset[int]


class Snapshot:
    """One that is being read, in its own read-only transaction."""

    def __init__(self, connection: Connection, head: SnapshotHead, query: str, *arguments: str) -> None:
        self.head = head
        self._connection = connection
        self._query = query
        self._arguments = arguments

    def batches(self, columns: Columns) -> AsyncGenerator[Sequence[Any], None]:
        """All items, oldest first: for each a row. Close it before the snapshot ends.

        Raises ItemUnreadableError, ItemsUnreadableError.
        """
        return prefetch(self._fetch(self._query.replace("{columns}", columns)))

    async def _fetch(self, query: str) -> AsyncGenerator[Sequence[Any], None]:
        try:
            cursor = await self._connection.cursor(query, *self._arguments)
            rows = await cursor.fetch(FETCH_ROWS_FIRST)
            while rows:
                yield rows
                size = sum([len(row[-1]) for row in rows])
                rows = await cursor.fetch(min(FETCH_ROWS_MAX, max(1, FETCH_BYTES * len(rows) // max(1, size))))
        except (*ROW_ERRORS, asyncpg.OutdatedSchemaCacheError) as error:
            if (trouble := _of_the_table(error)) is not None:
                raise trouble from error
            raise


@asynccontextmanager
async def open_snapshot(
    connection: Connection, stream: str, table: str, group_id: str, item_id: str | None
) -> AsyncIterator[Snapshot]:
    """Begin to read one. The connection is in a transaction until this ends: don't wait for clients meanwhile."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        row = await connection.fetchrow(SNAPSHOT_HEAD, stream, group_id)
        assert row is not None  # noqa: S101 - `since` is one row
        head = SnapshotHead(row["number"], known_epoch(row["epoch"]), frozenset(row["xids"]))
        # Two statements, as each has one plan for all: that of a group would go through all of it for an item.
        only, arguments = ("", (group_id,)) if item_id is None else ("and id = $2", (group_id, item_id))
        query = READ_ITEMS.replace("{table}", table).replace("{only}", only)
        yield Snapshot(connection, head, query, *arguments)


def _of_the_table(error: Exception) -> ItemsUnreadableError | ItemUnreadableError | None:
    """The same as the table's trouble, or an item's, unless it is the database's or the connection's."""
    state = getattr(error, "sqlstate", None)
    if state == LOCK_NOT_AVAILABLE:
        return ItemsUnreadableError(error, may_pass=True)
    if is_outdated(error):
        return ItemsUnreadableError(error)
    if is_of_a_row(error) and not is_passing(error):
        return ItemUnreadableError(f"an item of the group can't be read: {in_a_line(error)}")
    return None if state == QUERY_CANCELED or is_passing(error) else ItemsUnreadableError(error)
