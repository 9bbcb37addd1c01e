"""Makes room in the log, and removes what is no longer wanted: delivered events, commits and changes past retention.

Works beside the sequencer of the moment, on a connection of its own: a commit of a million changes may take
seconds to remove, and delays no number. Knows nothing of how numbers are given.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.numbering.beside import work_beside
from tidelog.store.deadline import deadline
from tidelog.store.partitions import drop_partitions, make_room, read_partitions
from tidelog.store.retention import Retention, forget_events, read_floor, remove_commits
from tidelog.store.stream_retention import Step, begin_walk, remove_changes

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

EVENT_AGE = timedelta(seconds=60)  # a reader further behind than this misses ephemeral events, never commits
ROUND_SECONDS = 10.0
# What one statement removes: a millisecond or two of work, as writers have one core less meanwhile. (With ten times as
# much, in as long a time, their p99 on two cores was 5 ms instead of 2.) A commit goes whole, whatever its size.
EVENTS_AT_ONCE = 500
COMMITS_AT_ONCE = 100
PAUSE_MIN_SECONDS = 0.005
# Between two steps of retention: 4,000 commits a second.
PAUSE_SECONDS = 0.025
HURRY_SECONDS = 60.0  # whoever is behind for so long pauses half as long: others write faster than that
# Of a stream that has changed in few of them, more commits are looked through in one statement, up to this work.
WALKED_AT_ONCE_MAX = 160 * COMMITS_AT_ONCE
WALK_SECONDS = 0.01
UNDROPPED_SECONDS = 600.0  # a partition that could not be dropped for so long is told of
STATEMENT_TIMEOUT_SECONDS = 60.0  # removing some millions of changes; past it the server goes on alone

logger = logging.getLogger("tidelog.housekeeper")


class Housekeeper:
    """Tidies every ROUND_SECONDS until cancelled, through every loss of the connection."""

    def __init__(self, connect: Connector, retention: Retention) -> None:
        self._connect = connect
        self._retention = retention
        self._undropped_since: float | None = None  # inf: it was told

    async def run(self) -> None:
        # What was removed may be there again after a crash, and is removed again: no write waits for these flushes.
        await work_beside(self._connect, "housekeeper", self._tidy, ROUND_SECONDS, synchronous_commit="off")

    async def _tidy(self, connection: asyncpg.Connection[Any]) -> None:
        """All that is to be done. What is past retention goes for a round's time in turn, as the rest mustn't wait."""
        pause, hurry_at = PAUSE_SECONDS, time.monotonic() + HURRY_SECONDS
        is_behind = True
        while is_behind:
            await self._make_room(connection)
            await self._forget_events(connection)
            is_behind = await self._remove_commits(connection, pause)
            await self._remove_of_streams(connection)
            if time.monotonic() >= hurry_at:
                pause, hurry_at = max(pause / 2, PAUSE_MIN_SECONDS), time.monotonic() + HURRY_SECONDS

    async def _forget_events(self, connection: asyncpg.Connection[Any]) -> None:
        forgotten = EVENTS_AT_ONCE
        while forgotten == EVENTS_AT_ONCE:
            began = time.monotonic()
            with deadline(connection, STATEMENT_TIMEOUT_SECONDS):
                forgotten = await forget_events(connection, older_than=EVENT_AGE, rows_max=EVENTS_AT_ONCE)
            await _pause_since(began, PAUSE_MIN_SECONDS)

    async def _make_room(self, connection: asyncpg.Connection[Any]) -> None:
        with deadline(connection, STATEMENT_TIMEOUT_SECONDS):
            await make_room(connection, self._retention.older_than)

    async def _remove_commits(self, connection: asyncpg.Connection[Any], pause: float) -> bool:
        """Remove those past retention, and the partitions that are empty then; returns whether more are left."""
        if (older_than := self._retention.older_than) is None:
            return False
        until = time.monotonic() + ROUND_SECONDS
        with deadline(connection, STATEMENT_TIMEOUT_SECONDS):
            floor = await read_floor(connection)
            left = [each for each in await read_partitions(connection) if each.goes_soon(older_than)]
        is_behind = True
        while is_behind:
            began = time.monotonic()
            with deadline(connection, STATEMENT_TIMEOUT_SECONDS):
                removed = await remove_commits(
                    connection,
                    floor,
                    older_than=older_than,
                    commits_max=COMMITS_AT_ONCE,
                    left_to=left,
                    consumers_away_max=self._retention.consumers_away_max,
                )
            is_behind, floor = removed.commits == COMMITS_AT_ONCE, removed.floor
            await _pause_since(began, pause)
            if time.monotonic() >= until:
                break
        with deadline(connection, STATEMENT_TIMEOUT_SECONDS):
            self._note_drop(await drop_partitions(connection) is not None)
        return is_behind

    def _note_drop(self, is_done: bool) -> None:
        """Changes that are past retention stay until their partition is dropped: that it can't be is told, once."""
        if is_done:
            self._undropped_since = None
            return
        now = time.monotonic()
        self._undropped_since = self._undropped_since or now
        if now - self._undropped_since >= UNDROPPED_SECONDS:
            self._undropped_since = math.inf
            logger.warning(
                "changes past retention are still stored: for %.0f minutes there was no moment in which no transaction "
                "used streams.change (see pg_stat_activity), or the role may not call streams.drop_partitions()",
                UNDROPPED_SECONDS / 60,
            )

    async def _remove_of_streams(self, connection: asyncpg.Connection[Any]) -> None:
        """A step of each stream in turn, for a round's time at most: a long walk keeps nothing else waiting."""
        until = time.monotonic() + ROUND_SECONDS
        walks = [_Walk(stream) for stream in self._retention.streams]
        while walks and time.monotonic() < until:
            for walk in list(walks):
                began = time.monotonic()
                try:
                    step = await self._walk_on(connection, walk)
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                    walks.remove(walk)  # somebody is erasing: in the next round
                    continue
                if not step.more:
                    walks.remove(walk)
                walk.note(time.monotonic() - began)
                await _pause_since(began, PAUSE_MIN_SECONDS)

    async def _walk_on(self, connection: asyncpg.Connection[Any], walk: _Walk) -> Step:
        kept = self._retention.streams[walk.stream]
        with deadline(connection, STATEMENT_TIMEOUT_SECONDS):
            if walk.after is None:
                walk.after = max(await begin_walk(connection, walk.stream, kept), await read_floor(connection))
            step = await remove_changes(
                connection,
                walk.stream,
                kept,
                after=walk.after,
                commits_max=walk.commits,
                consumers_away_max=self._retention.consumers_away_max,
            )
        walk.after = step.walked
        return step


class _Walk:
    """Through the commits, for one stream, in one round."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.after: int | None = None
        self.commits = COMMITS_AT_ONCE

    def note(self, seconds: float) -> None:
        """A step took so long."""
        if seconds < WALK_SECONDS / 2:
            self.commits = min(2 * self.commits, WALKED_AT_ONCE_MAX)
        elif seconds > WALK_SECONDS:
            self.commits = max(self.commits // 2, 1)


async def _pause_since(began: float, pause: float) -> None:
    """At least as long as the work took: at most half of the time goes into it."""
    await asyncio.sleep(max(pause, time.monotonic() - began))
