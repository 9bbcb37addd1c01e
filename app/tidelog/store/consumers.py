"""Durable consumers in the database: their positions, and the commits that come after."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from uuid import UUID

from tidelog.errors import PositionForeignError, PositionTooOldError, StreamsNotMigratedError, StreamUnknownError
from tidelog.store.encoding import check_encoding_of
from tidelog.store.queries import load
from tidelog.store.reading import Only, PageRequest, read_page
from tidelog.store.retention import FLOOR
from tidelog.store.stream_tables import MIGRATE
from tidelog.store.stride import COMMITS_AT_ONCE
from tidelog.store.xid_range import XID_END, XidRange, read_xid_range

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

CONSUME = load("consume").replace("{floor}", FLOOR)
IS_KEPT = load("is_kept")

# The position of one that is to begin with the oldest commit that is kept, and has had none yet. Which that is, is
# looked up when it reads: a number would be too low where a removal is under way that doesn't see its row yet.
BEGINNING = -1

STATEMENT_TIMEOUT_SECONDS = 30.0  # a dead connection shows itself

Start = Literal["beginning", "now"] | int


class Stored(NamedTuple):
    """A consumer's position, locked to the end of the transaction `xid`."""

    position: int
    epoch: UUID
    xid: int


class Batch(NamedTuple):
    """The commits that match (number and time) from a position to `through`, and where the log stands."""

    commits: Sequence[tuple[int, datetime]]
    through: int
    head: int
    floor: int  # the oldest position from which the wanted streams can be gone on with, or the one asked from
    epoch: UUID | None  # None: no server has numbered anything in this database yet
    lowest_xid: int  # of these commits, at least


async def find_batch(connection: Connection, position: int, wanted: Only, commits_max: int) -> Batch:
    """The next commits after `position` that have a change in `wanted`, at most `commits_max`."""
    xids = await read_xid_range(connection, position + 1, timeout_seconds=STATEMENT_TIMEOUT_SECONDS)
    rows = await connection.fetch(
        CONSUME,
        position,
        wanted.streams,
        wanted.group_ids,
        COMMITS_AT_ONCE,
        commits_max,
        xids.low,
        timeout=STATEMENT_TIMEOUT_SECONDS,
    )
    head, floor, epoch, *_ = rows[0]
    commits = [(row["number"], row["at"]) for row in rows if row["number"] is not None]
    is_full = commits and len(commits) == commits_max
    through = commits[-1][0] if is_full else min(position + COMMITS_AT_ONCE, head)
    return Batch(commits, through, head, floor, epoch, xids.low)


async def read_changes(connection: Connection, number: int, wanted: Only, *, lowest_xid: int = 0) -> AsyncIterator[Any]:
    """The rows of a commit's changes in `wanted`, in order, with a page of them in memory.

    Raises PositionTooOldError if the commit was removed meanwhile.
    """
    request, more, xids = PageRequest(number, -1, number), True, XidRange(lowest_xid, XID_END)
    while more:
        page = await read_page(connection, request, wanted, xids=xids, timeout_seconds=STATEMENT_TIMEOUT_SECONDS)
        changes = [row for row in page.rows if row["kind"] == "change"]
        # None, though some were to come: removed, or only events come behind them.
        if not changes and not await connection.fetchval(IS_KEPT, number):
            raise PositionTooOldError(f"commit {number} was removed from the log while it was read")
        for row in changes:
            yield row
        more = page.more
        if more:
            request = request._replace(seq=page.rows[-1]["seq"])


async def register(connection: Connection, name: str, start: Start, wanted: Only) -> bool:
    """Give a new name its first position; one that has one keeps it. False if no server ran here yet."""
    if await is_registered(connection, name):
        return True
    log = await find_batch(connection, 0, wanted, 0)
    if log.epoch is None:
        return False
    position = {"beginning": BEGINNING, "now": log.head}[start] if isinstance(start, str) else start
    if not isinstance(start, str) and not log.floor <= start <= log.head:
        kind = PositionTooOldError if start < log.floor else PositionForeignError
        raise kind(f"consumer {name!r} can't start at {start}: the log has positions {log.floor} to {log.head}")
    await connection.execute(
        "insert into streams.consumer (name, position, epoch) values ($1, $2, $3) on conflict (name) do nothing",
        name,
        position,
        log.epoch,
        timeout=STATEMENT_TIMEOUT_SECONDS,
    )
    return True


async def is_registered(connection: Connection, name: str) -> bool:
    found: bool = await connection.fetchval(
        "select exists (select from streams.consumer where name = $1)", name, timeout=STATEMENT_TIMEOUT_SECONDS
    )
    return found


async def check_migrated(connection: Connection, streams: Sequence[str]) -> None:
    """Raise StreamsNotMigratedError or StreamUnknownError: a misspelt stream would match nothing for ever.

    Or EncodingError.
    """
    await check_encoding_of(connection)
    if not await connection.fetchval("select to_regclass('streams.consumer') is not null"):
        raise StreamsNotMigratedError(f"this database has no table of consumers: {MIGRATE}")
    unknown = await connection.fetchval(
        "select string_agg(wanted.name, ', ') from unnest($1::text[]) as wanted (name) "
        "where not exists (select from streams.stream s where s.name = wanted.name)",
        streams,
        timeout=STATEMENT_TIMEOUT_SECONDS,
    )
    if unknown:
        raise StreamUnknownError(f"no stream is named {unknown}: if it is declared, {MIGRATE}")


async def lock_position(connection: Connection, name: str) -> Stored | None:
    """The position, locked; None if somebody else has the lock. Never waits: a waiting request holds back vacuum."""
    row = await connection.fetchrow(
        "select position, epoch, pg_current_xact_id() as xid from streams.consumer where name = $1 "
        "for update skip locked",
        name,
        timeout=STATEMENT_TIMEOUT_SECONDS,
    )
    return None if row is None else Stored(row["position"], row["epoch"], row["xid"])


async def store_position(
    connection: Connection, name: str, stored: Stored, position: int, epoch: UUID, wanted: Only
) -> int | None:
    """Move the position on; None, and nothing stored, if this is not the transaction that locked it.

    Answers the floor of the wanted streams: from there on, what was read before is all that there was.
    """
    floor: int | None = await connection.fetchval(
        "update streams.consumer set position = $3, epoch = $4, updated_at = clock_timestamp() "
        "where name = $1 and pg_current_xact_id() = $2 returning coalesce(("
        "select max(f.number) from streams.stream_floor f where $5::text[] is null or f.stream = any ($5)), 0)",
        name,
        stored.xid,
        position,
        epoch,
        wanted.streams,
        timeout=STATEMENT_TIMEOUT_SECONDS,
    )
    return floor


async def find_next(
    connection: Connection, name: str, position: int, stored: Stored, wanted: Only, commits_max: int
) -> Batch:
    """What is next for a consumer that has come to `position`. Raises PositionTooOldError and PositionForeignError."""
    batch = await find_batch(connection, position, wanted, commits_max)
    if stored.position != BEGINNING:
        await _check_position(connection, name, position, stored, batch)
    while position < batch.floor:  # it has had nothing, so it has missed nothing
        position = batch.floor
        batch = await find_batch(connection, position, wanted, commits_max)
    return batch


async def _check_position(connection: Connection, name: str, position: int, stored: Stored, log: Batch) -> None:
    """Raise if the log does not go on where this consumer stopped."""
    if position < log.floor:
        raise PositionTooOldError(
            f"consumer {name!r} stopped at {position}, but the log is kept from {log.floor} on only: the commits "
            f"between are gone. Make good what it missed, then set its position in streams.consumer to {log.floor}"
        )
    ended_at = log.head
    if stored.epoch != log.epoch:
        # Commits up to the head at which the next epoch began are the same in both histories.
        ended_at = await connection.fetchval(
            "select coalesce(min(later.since_number), -1) from streams.epoch e "
            "join streams.epoch later on later.began_at > e.began_at where e.epoch = $1",
            stored.epoch,
            timeout=STATEMENT_TIMEOUT_SECONDS,
        )
    if position > ended_at:
        raise PositionForeignError(
            f"consumer {name!r} stopped at {position} of epoch {stored.epoch}, which this database's history does not "
            f"have (it is at {log.head} of {log.epoch}). Find out where its effects end, then set its position and "
            "epoch in streams.consumer, or delete its row there to start anew"
        )
