"""Commits at a steady rate, and remembers when each was acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import asyncpg

UPSERT = (
    "insert into streams.bench as item (group_id, id, data) values ($1, $2, $3::text::jsonb) "
    "on conflict (group_id, id) do update set data = excluded.data"
)
CONNECTIONS = 8  # a commit may take a while (a checkpoint); the next ones are not to wait for it


async def commit_steadily(
    url: str, statement: str, arguments: Callable[[int], Sequence[str]], numbers: range, per_second: int
) -> dict[int, int]:
    """Execute `statement` in a transaction of its own for each number, on time; when each was acknowledged, in ns."""
    acknowledged: dict[int, int] = {}
    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)

    async def write(own: range, began: float) -> None:
        async with pool.acquire() as connection:
            prepared = await connection.prepare(statement)
            for n in own:
                await asyncio.sleep(began + (n - numbers[0]) / per_second - time.perf_counter())
                await prepared.fetchval(*arguments(n))
                acknowledged[n] = time.perf_counter_ns()

    try:
        began = time.perf_counter() + 0.1  # the statements are prepared by then
        await asyncio.gather(*(write(numbers[one::CONNECTIONS], began) for one in range(CONNECTIONS)))
    finally:
        pool.terminate()
    return acknowledged
