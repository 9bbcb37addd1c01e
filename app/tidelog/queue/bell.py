"""What wakes workers that sleep. The emitters' side, and why there is a lock, is in 0011_jobs/ring_workers.sql."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

CHANNEL = "tidelog_work"
LOCK = "1953064044, 4"  # the key that ring_workers.sql tries
# Of a lock that can't be had alone: whoever may share it knows that only emitters have it.
ARM = (
    f"select case when pg_try_advisory_lock({LOCK}) then 'armed' "
    f"when pg_try_advisory_lock_shared({LOCK}) then case when pg_advisory_unlock_shared({LOCK}) then 'busy' end "
    "else 'theirs' end"
)


class State(Enum):
    OFF = "off"  # nobody rings for this worker
    ARMED = "armed"  # its lock is ours: every emitter rings
    THEIRS = "theirs"  # another worker's: as long as that one sleeps, every emitter rings, and all workers hear it
    BUSY = "busy"  # an emitter that has not rung is under way: one must look again


class Bell:
    """One worker process's, on its own connection."""

    def __init__(self, connection: asyncpg.Connection[Any], ring: Callable[[], None]) -> None:
        self._connection = connection
        self._ring = ring
        self.state = State.OFF

    async def open(self) -> None:
        await self._connection.add_listener(CHANNEL, lambda *_: self._ring())

    async def arm(self) -> State:
        """Try to be rung for. The caller must look for work once more before it waits.

        It is only tried: a lock request that waits would hold back vacuum.
        """
        if self.state is not State.ARMED:
            self.state = State(await self._connection.fetchval(ARM))
        return self.state

    async def disarm(self) -> None:
        """Emitters stop ringing."""
        if self.state is State.ARMED:
            await self._connection.execute(f"select pg_advisory_unlock({LOCK})")
        self.state = State.OFF

    def forget(self) -> None:
        """Another worker may have left its bed since: ask again before the next sleep."""
        if self.state is not State.ARMED:
            self.state = State.OFF
