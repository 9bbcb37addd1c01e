"""Sessions that have one of the sequencers' locks and are no sequencers: each is told once, and ended where we may."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tidelog.store.holders import Holder, end_sessions

if TYPE_CHECKING:
    import asyncpg

logger = logging.getLogger("tidelog.sequencer")


class Strangers:
    """Those of one lock, for one process."""

    def __init__(self, lock: str, consequence: str) -> None:
        self._lock = lock
        self._consequence = consequence  # what happens as long as one can't be ended
        self._told: frozenset[Holder] = frozenset()
        self.trouble: str | None = None

    async def drive_out(self, connection: asyncpg.Connection[Any], holders: list[Holder]) -> bool:
        """End the sessions of these, who hold the lock or queue for it. Whether all of them were told to end."""
        may_all = await end_sessions(connection, holders)
        self.tell(holders, "it is ended" if may_all else f"this role may not end it: {self._consequence}")
        return may_all

    def tell(self, holders: list[Holder], what: str) -> None:
        """Tell of those that hold the lock, or else of those that wait for it; of each once; none: it is over."""
        holding = frozenset(holder for holder in holders if holder.granted) or frozenset(holders)
        for holder in holding - self._told:
            has = "held" if holder.granted else "waited for"
            logger.warning("%s is %s by a session that is no sequencer (%s); %s", self._lock, has, holder, what)
        if self._told and not holding:
            logger.warning("%s is no longer held by a session that is no sequencer", self._lock)
        self._told = holding
        self.trouble = f"held by a stranger: {'; '.join(map(str, holding))}" if holding else None
