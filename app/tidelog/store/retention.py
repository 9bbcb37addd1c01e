"""How far the log reaches back: the floor below which commits are removed, and their removal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tidelog.store.queries import load

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

FLOOR = load("floor")
REMOVE_COMMITS = load("remove_commits")
FORGET_EVENTS = load("forget_events")


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


async def remove_commits(
    connection: asyncpg.Connection[Any], floor: int, *, older_than: timedelta, commits_max: int
) -> Removed:
    """Remove the oldest commits, if they are old enough, and neither the newest nor needed by a consumer."""
    row = await connection.fetchrow(REMOVE_COMMITS, floor, older_than, commits_max)
    assert row is not None  # noqa: S101 - an aggregate answers one row
    return Removed(row["removed"], row["floor"])


async def forget_events(connection: asyncpg.Connection[Any], *, older_than: timedelta, rows_max: int) -> int:
    """Remove ephemeral events that every reader has long handed on; returns how many."""
    tag = await connection.execute(FORGET_EVENTS, older_than, rows_max)
    return int(tag.rpartition(" ")[2])
