"""How full Postgres's NOTIFY queue is: once it is full, every transaction that notifies fails, in all databases.

It fills while a session that listens takes nothing (an open transaction, a client that doesn't read) and others notify.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.store.queries import load

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

USAGE = "select pg_notification_queue_usage()"
QUEUE_BLOCKERS = load("queue_blockers")

# Usually the queue is as good as empty: sessions that listen take what comes within milliseconds. So a tenth (800 MB of
# the usual 8 GB, for which a flood needs ten seconds and more) means that a session takes nothing; and there is time
# enough to do without NOTIFY before any commit fails.
CROWDED_FROM = 0.1
# Lower than the above, so that a queue that stays about there is not told again and again. Readers poll from here on:
# all of them do by the time at which a sequencer does without.
CROWDED_UNTIL = 0.05
BLOCKERS_TOLD_MAX = 5


class NotifyQueue:
    """One observer's knowledge of it, who looks every second."""

    def __init__(self) -> None:
        self.usage = 0.0  # of 1
        self.is_crowded = False  # do without NOTIFY

    @property
    def is_filling(self) -> bool:
        """Others may do without NOTIFY."""
        return self.usage >= CROWDED_UNTIL

    async def look(self, connection: Connection, *, timeout_seconds: float | None = None) -> None:
        self.usage = await connection.fetchval(USAGE, timeout=timeout_seconds)
        self.is_crowded = self.usage >= (CROWDED_UNTIL if self.is_crowded else CROWDED_FROM)

    def note_full(self) -> None:
        """A commit failed as the queue was full."""
        self.usage, self.is_crowded = 1.0, True


async def read_blockers(connection: Connection, *, timeout_seconds: float) -> list[str]:
    """The sessions that may be why it fills, in words."""
    rows = await connection.fetch(QUEUE_BLOCKERS, BLOCKERS_TOLD_MAX, timeout=timeout_seconds)
    return [row[0] for row in rows]
