"""Work beside the sequencer of the moment, so that one process does it, on a connection of its own: no number waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tidelog.backoff import Backoff
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.log import FEED_SETTINGS

if TYPE_CHECKING:
    import asyncpg

    from tidelog.store.connecting import Connector


async def work_beside(
    connect: Connector,
    name: str,
    work: Callable[[asyncpg.Connection[Any]], Awaitable[None]],
    round_seconds: float,
    **settings: str,
) -> None:
    """Do it every `round_seconds` until cancelled, through every loss of the connection, which has these `settings`."""
    logger = logging.getLogger(f"tidelog.{name}")
    backoff = Backoff()
    while True:
        try:
            connection = await connect(**FEED_SETTINGS | settings, application_name=f"tidelog {name}")
            try:
                while True:
                    await work(connection)
                    backoff.reset()
                    await asyncio.sleep(round_seconds)
            finally:
                connection.terminate()  # nobody waits for it, and it holds nothing that anybody needs
        except CONNECTION_ERRORS as error:
            logger.warning("the %s could not do its work, trying again: %s: %s", name, type(error).__name__, error)
        except Exception:  # a bug here must not end the sequencer, nor go unseen
            logger.exception("the %s failed, trying again", name)
        await backoff.wait()
