"""How far the log reaches back: the floor below which commits are removed, and their removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tidelog.store.partitions import Partition
from tidelog.store.queries import load

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from tidelog.model.retention import StreamRetention

FLOOR = load("floor")
REMOVE_COMMITS = load("remove_commits")
FORGET_EVENTS = load("forget_events")
STREAM_FLOORS = "select stream, number from streams.stream_floor where number > 0"


@dataclass(frozen=True, slots=True)
class Retention:
    """What of the log is kept: of nothing set, all."""

    older_than: timedelta | None = None  # commits go when they are
    consumers_away_max: timedelta | None = None  # a consumer that has done nothing for longer is not waited for
    streams: Mapping[str, StreamRetention] = field(default_factory=dict)  # of those that keep less, by their names


@dataclass(frozen=True, slots=True)
class Removed:
    """How many commits went, and where the floor is now."""

    commits: int
    floor: int


async def read_floor(connection: asyncpg.Connection[Any] | PoolConnectionProxy[Any]) -> int:
    """The last number that was removed, 0 if none: a position is good to resume from if it is not below.

    Retention goes on meanwhile: whoever reads the log page by page asks after each page whether its first commit is
    still there (is_kept.sql); if not, what was read may have a gap.
    """
    floor: int = await connection.fetchval(FLOOR)
    return floor


async def read_stream_floors(
    connection: asyncpg.Connection[Any] | PoolConnectionProxy[Any],
) -> Mapping[str, int]:
    """Of the streams that have lost changes: the last number of which one was removed."""
    return {row["stream"]: row["number"] for row in await connection.fetch(STREAM_FLOORS)}


async def remove_commits(
    connection: asyncpg.Connection[Any],
    floor: int,
    *,
    older_than: timedelta,
    commits_max: int,
    left_to: Sequence[Partition] = (),
    consumers_away_max: timedelta | None = None,
) -> Removed:
    """Remove the oldest commits, if they are old enough, and neither the newest nor needed by a consumer.

    The changes that are in the partitions `left_to` stay where they are, unseen, until these are dropped. A consumer
    that has done nothing for longer than `consumers_away_max` isn't waited for.
    """
    lows, highs = [each.low for each in left_to], [each.high for each in left_to]
    row = await connection.fetchrow(REMOVE_COMMITS, floor, older_than, commits_max, lows, highs, consumers_away_max)
    assert row is not None  # noqa: S101 - an aggregate answers one row
    return Removed(row["removed"], row["floor"])


async def forget_events(connection: asyncpg.Connection[Any], *, older_than: timedelta, rows_max: int) -> int:
    """Remove ephemeral events that every reader has long handed on; returns how many."""
    tag = await connection.execute(FORGET_EVENTS, older_than, rows_max)
    return int(tag.rpartition(" ")[2])
