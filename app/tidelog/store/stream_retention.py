"""Removing the changes of one stream that keeps less than the log does: by a walk through the commits, in small steps.

Where the walk is, and the stream's floor, are in the database: whoever is the housekeeper next goes on from there.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from tidelog.model.retention import StreamRetention
from tidelog.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

BEGIN_WALK = load("begin_walk")
WALKED_COMMITS, RAISED_FLOOR = load("walked_commits"), load("raised_floor")
REMOVE_OLD_CHANGES, REMOVE_ALL_BUT_LAST = (
    load(name).replace("{walked_commits}", WALKED_COMMITS.rstrip()).replace("{raised_floor}", RAISED_FLOOR)
    for name in ("remove_old_changes", "remove_all_but_last")
)

# Of a stream that keeps the last changes of its items, younger ones stay, too: a client that was away for less goes on
# from its position, and a reader that is a moment behind misses nothing. Longer, and an item that changes a hundred
# times a second has more than so many thousands.
CHANGES_AGE_MIN = timedelta(seconds=60)
# Somebody may be erasing, in a transaction that stays open: rather than wait for him, and he for us, come again.
LOCK_TIMEOUT = "set local lock_timeout = '200ms'"  # shorter than deadlock_timeout: it is not he who is ended


class Step(NamedTuple):
    """What was removed, up to which commit all is looked through, and whether there may be more to look through."""

    removed: int
    walked: int
    more: bool


async def begin_walk(connection: Connection, stream: str, kept: StreamRetention) -> int:
    """After which commit the next step begins."""
    walked: int = await connection.fetchval(BEGIN_WALK, stream, _rule(kept))
    return walked


async def remove_changes(
    connection: Connection,
    stream: str,
    kept: StreamRetention,
    *,
    after: int,
    commits_max: int,
    consumers_away_max: timedelta | None = None,
    age_min: timedelta = CHANGES_AGE_MIN,
) -> Step:
    """Look through the next commits, and remove what the stream doesn't keep; never what a consumer has still to read.

    Raises asyncpg.LockNotAvailableError if somebody is changing these rows of the log.
    """
    age = age_min if kept.seconds is None else timedelta(seconds=kept.seconds)
    arguments = (stream, _rule(kept), after, commits_max, age, consumers_away_max)
    async with connection.transaction():
        await connection.execute(LOCK_TIMEOUT)
        if kept.changes is None:
            row = await connection.fetchrow(REMOVE_OLD_CHANGES, *arguments)
        else:
            row = await connection.fetchrow(REMOVE_ALL_BUT_LAST, *arguments, kept.changes)
    assert row is not None  # noqa: S101 - a select of one row
    return Step(row["removed"], row["walked"], row["more"])


def _rule(kept: StreamRetention) -> str:
    """What a walk is by: what another one has passed, this one may have to remove."""
    return "seconds" if kept.changes is None else f"changes {kept.changes}"
