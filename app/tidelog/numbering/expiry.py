"""Deletes items whose time to live is over, as commits that subscribers see like any others.

Works beside the sequencer of the moment, so that one process does it, and on a connection of its own. Knows nothing of
how numbers are given.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from tidelog.numbering.beside import work_beside
from tidelog.store.deadline import deadline

if TYPE_CHECKING:
    import asyncpg

    from tidelog.store.connecting import Connector

EXPIRE_ITEMS = "select streams.expire_items($1)"
# How late an item may be deleted, on a quiet machine. To steps it is gone at its time.
ROUND_SECONDS = 1.0
ITEMS_AT_ONCE = 1000  # one commit: some ten milliseconds' work, and a frame that subscribers take
PAUSE_MIN_SECONDS = 0.01
STATEMENT_TIMEOUT_SECONDS = 60.0  # past it the connection is closed, and the next round is on another one


class Expiry:
    """Looks every ROUND_SECONDS until cancelled, through every loss of the connection."""

    def __init__(self, connect: Connector) -> None:
        self._connect = connect

    async def run(self) -> None:
        await work_beside(self._connect, "expiry", self._expire, ROUND_SECONDS)

    async def _expire(self, connection: asyncpg.Connection[Any]) -> None:
        """All that is due, in batches; at most half of the time goes into it, as others write to these tables."""
        expired = ITEMS_AT_ONCE
        while expired == ITEMS_AT_ONCE:
            began = time.monotonic()
            with deadline(connection, STATEMENT_TIMEOUT_SECONDS):
                expired = await connection.fetchval(EXPIRE_ITEMS, ITEMS_AT_ONCE)
            if expired == ITEMS_AT_ONCE:
                await asyncio.sleep(max(PAUSE_MIN_SECONDS, time.monotonic() - began))
