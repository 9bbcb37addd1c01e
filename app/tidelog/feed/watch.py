"""What each process watches beside its feed, once a second: that changes get their numbers, and that NOTIFYs are taken.

It knows neither who numbers nor who reads; so it tells, whatever the cause is.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.store.backlog import Backlog
from tidelog.store.failure import is_lost
from tidelog.store.notify_queue import NotifyQueue, read_blockers

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

logger = logging.getLogger("tidelog.feed")

WATCH_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0  # of lookups; the reader, whose connection it is, waits for them
# Changes that have waited so long are trouble. A sequencer numbers in milliseconds, and to take over from a frozen one
# takes 5 s; twice that leaves room for a slow machine.
UNNUMBERED_SECONDS = 10.0


class Watch:
    """What it saw last: `numbering` and `notify_queue` are what is wrong, None if all is well."""

    def __init__(self) -> None:
        self._backlog = Backlog()
        self.queue = NotifyQueue()
        self.numbering: str | None = None
        self.notify_queue: str | None = None

    async def look(self, connection: Connection) -> None:
        """Raises what a lost connection raises. If it can't look (a locked table), that is told, and stops nothing."""
        try:
            await self._look_at_queue(connection)
            await self._look_at_numbering(connection)
        except (TimeoutError, asyncpg.PostgresError) as error:
            if is_lost(error):
                raise
            self._note_numbering(f"not known: {type(error).__name__}: {error}")

    async def _look_at_queue(self, connection: Connection) -> None:
        was_crowded = self.queue.is_crowded
        await self.queue.look(connection, timeout_seconds=TIMEOUT_SECONDS)
        if self.queue.is_crowded:
            self.notify_queue = f"filling up: {self.queue.usage:.0%}"
        if self.queue.is_crowded and not was_crowded:
            blockers = await read_blockers(connection, timeout_seconds=TIMEOUT_SECONDS)
            logger.warning(
                "Postgres's queue of NOTIFYs is %.0f%% full: when it is full, transactions that notify fail, in all "
                "databases. Commits are told by polling meanwhile. A session that listens does not take what others "
                "notify; end it if it is one of these: %s",
                self.queue.usage * 100,
                "; ".join(blockers) or "(none is to be seen by this role)",
            )
        elif was_crowded and not self.queue.is_crowded:
            self.notify_queue = None
            logger.warning("Postgres's queue of NOTIFYs is being emptied again")

    async def _look_at_numbering(self, connection: Connection) -> None:
        await self._backlog.look(connection, timeout_seconds=TIMEOUT_SECONDS)
        waiting_seconds = self._backlog.waiting_seconds
        is_trouble = waiting_seconds >= UNNUMBERED_SECONDS
        self._note_numbering(f"changes wait for numbers: for {waiting_seconds:.0f} s" if is_trouble else None)

    def _note_numbering(self, trouble: str | None) -> None:
        if trouble is not None and self.numbering is None:
            logger.error(
                "numbering: %s. Subscribers are told of a change when it has a number. See what /health/ready says of "
                "`sequencer`, and what the session `tidelog sequencer` waits for in pg_stat_activity",
                trouble,
            )
        if trouble is None and self.numbering is not None:
            logger.warning("changes get their numbers again")
        self.numbering = trouble
