"""Deletes items whose time to live is over, as commits that subscribers see like any others.

Works beside the sequencer of the moment, so that one process does it, and on a connection of its own. Knows nothing of
how numbers are given.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from tidelog.backoff import Backoff
from tidelog.store.deadline import deadline
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.log import FEED_SETTINGS

if TYPE_CHECKING:
    import asyncpg

    from tidelog.store.connecting import Connector

logger = logging.getLogger("tidelog.expiry")

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
        self._backoff = Backoff()

    async def run(self) -> None:
        while True:
            try:
                await self._run_on_one_connection()
            except CONNECTION_ERRORS as error:
                logger.warning("could not delete expired items, trying again: %s: %s", type(error).__name__, error)
            except Exception:  # a bug here must not end the sequencer, nor go unseen
                logger.exception("deleting expired items failed, trying again")
            await self._backoff.wait()

    async def _run_on_one_connection(self) -> None:
        connection = await self._connect(**FEED_SETTINGS, application_name="tidelog expiry")
        try:
            while True:
                await self._expire(connection)
                self._backoff.reset()
                await asyncio.sleep(ROUND_SECONDS)
        finally:
            connection.terminate()  # nobody waits for it, and it holds nothing that anybody needs

    async def _expire(self, connection: asyncpg.Connection[Any]) -> None:
        """All that is due, in batches; at most half of the time goes into it, as others write to these tables."""
        expired = ITEMS_AT_ONCE
        while expired == ITEMS_AT_ONCE:
            began = time.monotonic()
            with deadline(connection, STATEMENT_TIMEOUT_SECONDS):
                expired = await connection.fetchval(EXPIRE_ITEMS, ITEMS_AT_ONCE)
            if expired == ITEMS_AT_ONCE:
                await asyncio.sleep(max(PAUSE_MIN_SECONDS, time.monotonic() - began))
