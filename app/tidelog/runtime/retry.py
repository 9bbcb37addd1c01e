"""Trying again what lost against another transaction."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tidelog.store.failure import may_run_again

BACKOFF_SECONDS = 0.01  # before the first retry, at most; twice that before the next. A deadlock's winner needs ms

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def with_retries(retries: int, attempt: Callable[[], Awaitable[T]], where: str) -> T:
    """What `attempt` returns; it is called again, up to `retries` times, if it lost against another transaction."""
    for number in range(retries):
        try:
            return await attempt()
        except Exception as error:
            if not may_run_again(error):
                raise
            logger.info("%s: attempt %d lost: %s", where, number + 1, error)
        # Jitter: two steps that met in a deadlock shall not meet again.
        await asyncio.sleep(random.uniform(0, BACKOFF_SECONDS * 2**number))  # noqa: S311 - no secret
    return await attempt()
