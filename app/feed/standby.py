"""Standing by to become the sequencer: taking over from one that is dead, or frozen.

A dead sequencer's lock is free. A frozen one (its process is stopped, its network gone) keeps it, keep-alives
or not, while changes wait for their numbers; its backend is ended.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from app.feed.doorbell import ANSWER_TIMEOUT_SECONDS
from app.store.deadline import deadline
from app.store.log import BEFORE_EVERYTHING
from app.store.queries import load

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

logger = logging.getLogger("tidelog.sequencer")

STAND_BY = load("stand_by")
END_FROZEN = load("end_frozen")

POLL_SECONDS = 0.25  # how soon another process takes over from a dead one
# A healthy sequencer asks something every second. With two looks, and the backend's end, it is under 5 s in all.
FROZEN_AFTER = timedelta(seconds=3)


class Standby:
    """Watches the sequencer of the moment on a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._snapshot = BEFORE_EVERYTHING  # up to here everything is numbered
        self._number = -1  # no head yet: the first look takes it as one that moved
        self._has_unnumbered = False

    async def until_needed(self) -> None:
        """Return when this process shall number: its connection has the lock, or it is known to be without.

        Without the lock, because the frozen one's backend can't be ended, numbering is still safe: the unique
        keys of streams.commit let only one of two go on, and the other is a standby again.
        """
        while not await self._look():
            if self._has_unnumbered and await self._end_frozen():
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> bool:
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            row = await self._connection.fetchrow(STAND_BY, self._snapshot, self._number)
        assert row is not None  # noqa: S101 - a select without from
        self._has_unnumbered = row["has_unnumbered"]
        if not self._has_unnumbered:
            self._snapshot = row["snapshot"] if row["number"] == self._number else row["snapshot_of_head"]
            self._number = row["number"]
        is_ours: bool = row["is_ours"]
        return is_ours

    async def _end_frozen(self) -> bool:
        """End the sequencer's backend if it does nothing; answers whether to go on without the lock."""
        try:
            with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
                row = await self._connection.fetchrow(END_FROZEN, FROZEN_AFTER)
        except asyncpg.InsufficientPrivilegeError as error:
            logger.warning(
                "the sequencer is frozen, and this role may not end its backend (%s); numbering without its lock. "
                "Let all server processes use one role, or grant pg_signal_backend and pg_read_all_stats",
                error,
            )
            return True
        if row is None:
            return False
        if row["is_gone"]:
            logger.warning("the sequencer was frozen; its backend %d was ended", row["pid"])
            return False  # whoever tries first has the lock now
        logger.warning("the sequencer is frozen, its backend %d can't be ended; numbering without its lock", row["pid"])
        return True
