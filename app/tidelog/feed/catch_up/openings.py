"""How many snapshots of one connection are under way: what a client doesn't take is not read ahead for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidelog.feed.subscription import Subscriber

# For each stream, so that a table that can't be read holds up only its own. A connection has two of the archive's
# snapshots (archive.py) and the next ones ready, and no more than so many waiting to be sent.
OPENINGS_AT_ONCE_MAX = 4


class Openings:
    """All of a process. Those that are too many wait for their turn, in their order."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[Subscriber, str], _Lane] = {}

    @asynccontextmanager
    async def turn(self, subscriber: Subscriber, stream: str) -> AsyncIterator[None]:
        """A turn, from before the snapshot is read until it is sent."""
        key = (subscriber, stream)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        lane.users += 1
        try:
            async with lane.turns:
                yield
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[key]


class _Lane:
    __slots__ = ("turns", "users")

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(OPENINGS_AT_ONCE_MAX)
        self.users = 0
