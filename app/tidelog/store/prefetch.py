"""Reading ahead: the database makes the next part while the present one is handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

T = TypeVar("T")


async def prefetch(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """What `source` yields, with the next one always under way: one more is in memory.

    Close it (`contextlib.aclosing`): then nothing is under way any more, and `source` is closed.
    """
    coming = asyncio.create_task(_next(source))
    try:
        while (present := await coming) is not None:
            coming = asyncio.create_task(_next(source))
            await asyncio.sleep(0)  # its statement is sent, before the present one takes its time
            yield present
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        if not coming.cancelled():
            coming.exception()  # nobody waits for it any more
        await source.aclose()


async def _next(source: AsyncGenerator[T, None]) -> T | None:
    return await anext(source, None)
