"""The sequencer's side of the doorbell: when it may sleep, and what wakes it.

The writers' side, and why there is a lock, is in migrations/sql/0001_core/ring_doorbell.sql.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from app.store.deadline import deadline

if TYPE_CHECKING:
    import asyncpg

CHANNEL = "tidelog_doorbell"
LOCK = (1953064044, 2)  # the key that ring_doorbell.sql tries

# What a live server answers in; past it the connection is taken for dead. A statement that takes longer (a
# million commits to number) goes on in the server, and is not begun again before it has ended.
ANSWER_TIMEOUT_SECONDS = 5.0
# A lost bell (there is no known way to lose one) costs this much latency, never data.
SLOW_POLL_SECONDS = 1.0


class Doorbell:
    """Armed: its lock is held, and every writer rings. Not armed: nobody rings, and one must poll."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._rung = asyncio.Event()
        self.armed = False

    async def open(self) -> None:
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            await self._connection.add_listener(CHANNEL, lambda *_: self._rung.set())

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
            self.armed = await self._connection.fetchval("select pg_try_advisory_lock($1, $2)", *LOCK)
        return self.armed

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
