"""The sequencer's side of the doorbell: when it may sleep, and what wakes it.

The writers' side, and why there is a lock, is in migrations/sql/0001_core/ring_doorbell.sql.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from tidelog.numbering.strangers import Strangers
from tidelog.store.deadline import deadline
from tidelog.store.holders import DOORBELL_LOCK, Holder, read_holders

if TYPE_CHECKING:
    import asyncpg

logger = logging.getLogger("tidelog.sequencer")

CHANNEL = "tidelog_doorbell"
LOCK = (1953064044, DOORBELL_LOCK)  # the key that ring_doorbell.sql tries

# What a live server answers in; past it the connection is taken for dead. A statement that takes longer (a
# million commits to number) goes on in the server, and is not begun again before it has ended.
ANSWER_TIMEOUT_SECONDS = 5.0
# A lost bell (there is no known way to lose one) costs this much latency, never data.
SLOW_POLL_SECONDS = 1.0
# While its lock can't be had: between looks at who has it.
HOLDERS_POLL_SECONDS = 1.0
# Who keeps the sequencer awake for so long is told: nothing is wrong with a long writer, but polling costs something.
KEPT_AWAKE_SECONDS = 60.0


class Doorbell:
    """Armed: its lock is held, and every writer rings. Not armed: nobody rings, and one must poll."""

    def __init__(self, connection: asyncpg.Connection[Any], strangers: Strangers | None = None) -> None:
        self._connection = connection
        self._strangers = strangers or doorbell_strangers()
        self._rung = asyncio.Event()
        self._is_open = False
        self._refused_since: float | None = None  # by the monotonic clock, as is the next
        self._look_at_holders_at = 0.0
        self._told: frozenset[Holder] = frozenset()
        self.armed = False

    @property
    def rung(self) -> bool:
        """Whether somebody rang since the last `clear`."""
        return self._rung.is_set()

    def clear(self) -> None:
        """Forget the last ring. To be done before reading: a ring after a read would be lost."""
        self._rung.clear()

    async def arm(self) -> bool:
        """Try to take the lock; False if a writer that has not rung is in flight.

        A blocked lock request would hold back vacuum like any open transaction, so it is only tried. The
        caller must clear, read and find nothing once more before it waits.
        """
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            if not self._is_open:
                # Not before: while the queue of NOTIFYs is full, LISTEN may take half a minute to read through it.
                await self._connection.add_listener(CHANNEL, lambda *_: self._rung.set())
                self._is_open = True
            self.armed = await self._connection.fetchval("select pg_try_advisory_lock($1, $2)", *LOCK)
        if self.armed:
            self._refused_since, self._told = None, frozenset()
            self._strangers.tell([], "")
        else:
            await self._look_at_holders()
        return self.armed

    async def _look_at_holders(self) -> None:
        """Who holds it alone, or waits to, makes every writer ring; one that shares it keeps us polling.

        Neither loses a change. Sequencers never wait for it.
        """
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since, self._look_at_holders_at = now, now + HOLDERS_POLL_SECONDS
        if now < self._look_at_holders_at:
            return
        self._look_at_holders_at = now + HOLDERS_POLL_SECONDS
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            holders = await read_holders(self._connection, DOORBELL_LOCK)
            strangers = [holder for holder in holders if holder.is_exclusive and not holder.is_sequencer]
            if strangers:
                await self._strangers.drive_out(self._connection, strangers)
            else:
                self._strangers.tell([], "")
        if now - self._refused_since >= KEPT_AWAKE_SECONDS:
            sharing = frozenset(holder for holder in holders if holder.granted and not holder.is_exclusive)
            for holder in sharing - self._told:
                logger.info(
                    "the sequencer has to poll for a long transaction that wrote to a stream, or shares its lock: %s",
                    holder,
                )
            self._told |= sharing

    async def disarm(self) -> None:
        """Writers stop ringing."""
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            await self._connection.execute("select pg_advisory_unlock($1, $2)", *LOCK)
        self.armed = False

    async def wait(self) -> None:
        """Until somebody rings, at most SLOW_POLL_SECONDS."""
        try:
            async with asyncio.timeout(SLOW_POLL_SECONDS):
                await self._rung.wait()
        except TimeoutError:
            pass


def doorbell_strangers() -> Strangers:
    return Strangers("the doorbell's lock", "every write to a stream notifies, which is slow")
