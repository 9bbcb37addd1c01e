"""Items, groups and history for those who ask once: pages of one snapshot each, exactly as of a position.

Its connections are a pool of their own, with a line of bounded length: a flood of reads takes nothing from steps and
subscribers. Knows no HTTP, and not who may.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from tidelog.errors import (
    PositionForeignError,
    PositionTooOldError,
    QueryInvalidError,
    ReadsBusyError,
    ReadTooSlowError,
    StreamUnreadableError,
)
from tidelog.model.stream import Stream
from tidelog.store.engine import READ_TIMEOUT_SECONDS, Database
from tidelog.store.epoch import known_epoch
from tidelog.store.failure import in_a_line
from tidelog.store.queries import load

if TYPE_CHECKING:
    from tidelog.store.reading import Connection

READ_PLACE = load("read_place")
READ_ITEMS_NOW = load("read_items_now")
READ_ITEMS_AT = load("read_items_at")
READ_GROUPS_NOW = load("read_groups_now")
READ_GROUPS_TOUCHED = load("read_groups_touched")
READ_GROUPS_AT = load("read_groups_at")
READ_HISTORY = load("read_history")
TRANSACTION_STATE = load("transaction_state")
POSITION = "select number from streams.position_of($1::bigint)"
POSITION_OF_TIME = "select number from streams.position_of($1::timestamptz)"
COLLATION = """
select quote_ident(n.nspname) || '.' || quote_ident(c.collname), c.collname = 'C'
from pg_attribute a join pg_collation c on c.oid = a.attcollation join pg_namespace n on n.oid = c.collnamespace
where a.attrelid = to_regclass($1) and a.attname = 'id'
"""

PAGE_BYTES_MAX = 8 * 1024 * 1024  # of data; a page ends behind the item that goes past it
FETCH_ROWS = 64  # with the largest items that can be, 64 MiB at once
WAITING_MAX = 64  # reads in the line for a connection; they are over in some seconds
LINE_SECONDS = 5.0  # in it
STATEMENTS_MAX = 5  # of a read; each may take READ_TIMEOUT_SECONDS
ENDING_SECONDS = 5.0  # what a statement may take to end when it is cancelled: a frozen server's never does
UNKNOWN_TRIES_MAX = 20  # of a page with an item that can't be told before its last change has a number
UNKNOWN_PAUSE_SECONDS = 0.05

At = int | datetime | None  # a position, a time, or the present


class Place(NamedTuple):
    """What an answer is of."""

    position: int
    epoch: str
    floor: int


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in their order; `has_more` tells whether there may be further ones."""

    place: Place
    rows: Sequence[Any]
    has_more: bool


class Reads:
    """Reads by `database`'s pool for it. Raises OSError, TimeoutError, asyncpg's errors, those of `_transaction`."""

    def __init__(self, database: Database, streams: Mapping[str, Stream]) -> None:
        self._database = database
        self._streams = streams
        self._collations: dict[str, tuple[str, bool]] = {}
        self._waiting = 0

    async def place(self) -> Place:
        """Where the log ends."""
        async with self._transaction() as connection:
            return (await _place(connection, "", None))[0]

    async def items(
        self, stream: str, group_id: str, *, id: str | None = None, after: str | None = None, limit: int, at: At = None
    ) -> Page:
        """(id, version, data, is_erased) of a group's items in the order of their ids, or of one; data is text.

        Data is None if the item was there at that position, and what it was is not kept, or was erased.
        """
        for _ in range(UNKNOWN_TRIES_MAX):
            page = await self._items(stream, group_id, id, after, limit, at)
            if all(row["is_known"] for row in page.rows):
                return page
            await asyncio.sleep(UNKNOWN_PAUSE_SECONDS)
        raise ReadsBusyError

    async def _items(self, stream: str, group_id: str, id: str | None, after: str | None, limit: int, at: At) -> Page:
        async with self._transaction() as connection:
            place, unnumbered = await _place(connection, stream, group_id)
            arguments: tuple[Any, ...] = (group_id, after, limit + 1)
            if at is not None:
                place = place._replace(position=await _position(connection, at))
                query, arguments = READ_ITEMS_AT, (*arguments, place.position, stream)
            else:
                query, arguments = READ_ITEMS_NOW, (*arguments, place.position, unnumbered)
            only, arguments = ("", arguments) if id is None else (f"and t.id = ${len(arguments) + 1}", (*arguments, id))
            query = (await self._worded(connection, query, stream)).replace("{only}", only)
            return await _page(connection, place, query, arguments, limit)

    async def groups(
        self, stream: str, *, prefix: str = "", after: str | None = None, limit: int, at: At = None
    ) -> Page:
        """(group_id) of the groups that have items, in their order."""
        async with self._transaction() as connection:
            place, unnumbered = await _place(connection, stream, None)
            if at is not None:
                place = place._replace(position=await _position(connection, at))
                query = await self._worded(connection, READ_GROUPS_AT, stream)
                rows = await connection.fetch(query, prefix, after, limit + 1, place.position)
                return Page(place, rows[:limit], len(rows) > limit)
            query = await self._worded(connection, READ_GROUPS_NOW, stream)
            _, is_c = await self._collation(connection, stream)
            rows = await connection.fetch(query, prefix, after, limit + 1, is_c)
            found, has_more = rows[:limit], len(rows) > limit
            if unnumbered:
                last = found[-1][0] if has_more else None
                query = await self._worded(connection, READ_GROUPS_TOUCHED, stream)
                names = [row[0] for row in found]
                found = await connection.fetch(query, names, unnumbered, prefix, after, last, place.position)
            return Page(place, found, has_more)

    async def history(
        self,
        stream: str,
        group_id: str,
        *,
        id: str | None = None,
        begin: At = None,
        end: At = None,
        after: tuple[int, int] | None = None,
        limit: int,
    ) -> Page:
        """(position, at, seq, xid, op, id, version, data, is_erased) of the changes of a group or an item, in order.

        From the commit `begin` (a time: from the first one after it) to the commit `end`. Raises QueryInvalidError if
        that one is before the beginning.
        """
        async with self._transaction() as connection:
            place, _ = await _place(connection, stream, group_id)
            first = 1  # also from before the floor, where a stream that keeps its items' last changes has some
            if isinstance(begin, datetime):
                first = await _position(connection, begin) + 1
            elif begin is not None:
                first = await _position(connection, max(0, begin - 1)) + 1
            if end is not None:
                place = place._replace(position=await _position(connection, end))
                _check_span(begin, end, first, place.position)
            query = await self._worded(connection, READ_HISTORY, stream)
            arguments = (group_id, id, first, place.position, *(after or (None, None)), limit + 1)
            return await _page(connection, place, query, arguments, limit)

    async def transaction_state(self, transaction: int) -> Any:
        """number, is_over, has_rows, status of a transaction. Raises QueryInvalidError if there is none of that id."""
        async with self._lent() as connection:
            try:
                state = await connection.fetchrow(TRANSACTION_STATE, str(transaction))
            except asyncpg.DataError:  # it is too large, or was not given out yet
                state = None
        if state is None or state["status"] == "unknown":
            raise QueryInvalidError(f"there is no transaction {transaction} in this database's history")
        return state

    async def _worded(self, connection: Connection, query: str, stream: str) -> str:
        collation, _ = await self._collation(connection, stream)
        return query.replace("{table}", self._streams[stream].table).replace("{collation}", f"collate {collation}")

    async def _collation(self, connection: Connection, stream: str) -> tuple[str, bool]:
        """The one of the table's keys, by which its index is in order; and whether it is "C"."""
        if stream not in self._collations:
            row = await connection.fetchrow(COLLATION, f"streams.{self._streams[stream].table}")
            self._collations[stream] = ('pg_catalog."default"', False) if row is None else (row[0], row[1])
        return self._collations[stream]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """One that only reads, in one snapshot.

        Raises ReadsBusyError, ReadTooSlowError, StreamUnreadableError, and what positions may be.
        """
        async with self._lent() as connection:
            try:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    yield connection
            except asyncpg.QueryCanceledError as error:
                raise ReadTooSlowError(READ_TIMEOUT_SECONDS) from error
            except asyncpg.InvalidParameterValueError as error:
                raise _of_position(error) from error
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError) as error:
                raise StreamUnreadableError(f"the stream was renamed or dropped, or lacks a part: {error}") from error

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Connection]:
        """A connection, when it is this one's turn. Raises ReadsBusyError after a while, or if too many wait."""
        if self._waiting >= WAITING_MAX:
            raise ReadsBusyError
        self._waiting += 1
        try:
            connection = await self._database.reads_pool.acquire(timeout=LINE_SECONDS)
        except TimeoutError:
            raise ReadsBusyError from None
        finally:
            self._waiting -= 1
        seconds = STATEMENTS_MAX * READ_TIMEOUT_SECONDS + ENDING_SECONDS
        closing = asyncio.get_running_loop().call_later(seconds, _close, connection)
        try:
            yield connection
        finally:
            closing.cancel()
            await self._database.reads_pool.release(connection, timeout=ENDING_SECONDS)


async def _place(connection: Connection, stream: str, group_id: str | None) -> tuple[Place, Sequence[int]]:
    row = await connection.fetchrow(READ_PLACE, stream, group_id)
    assert row is not None  # noqa: S101 - `since` is one row
    return Place(row["number"], known_epoch(row["epoch"]), row["floor"]), row["unnumbered"]


async def _position(connection: Connection, at: int | datetime) -> int:
    number: int = await connection.fetchval(POSITION if isinstance(at, int) else POSITION_OF_TIME, at)
    return number


def _check_span(begin: At, end: At, first: int, last: int) -> None:
    """As streams.span_of does for _diff: what is asked for backwards is a mistake, and no empty answer."""
    are_times = isinstance(begin, datetime) and isinstance(end, datetime)
    if first - 1 > last or (are_times and begin > end):  # type: ignore[operator] # of times
        raise QueryInvalidError(f"`from`, {begin}, is later than `to`, {end}: the earlier one comes first")


async def _page(connection: Connection, place: Place, query: str, arguments: Sequence[Any], limit: int) -> Page:
    """Rows until there are so many, or so many bytes of data."""
    rows: list[Any] = []
    size = 0
    cursor = await connection.cursor(query, *arguments)
    while batch := await cursor.fetch(FETCH_ROWS):
        for row in batch:
            if len(rows) == limit or size > PAGE_BYTES_MAX:
                return Page(place, rows, has_more=True)
            rows.append(row)
            size += len(row["data"] or "")
    return Page(place, rows, has_more=False)


def _of_position(error: asyncpg.InvalidParameterValueError) -> Exception:
    """What position_of.sql refuses, as our error."""
    kinds = {
        "position_too_old": PositionTooOldError,
        "position_foreign": PositionForeignError,
        "position_invalid": QueryInvalidError,
    }
    kind = kinds.get(getattr(error, "constraint_name", None) or "")
    return error if kind is None else kind(in_a_line(error))


def _close(connection: Connection) -> None:
    with suppress(asyncpg.InterfaceError):  # it has been given back, in this turn of the event loop
        connection.terminate()
