"""What a commit of a million rows costs those who did not subscribe to its group: nothing, is the aim."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from tests.benchmarks.crowd import Crowd, crowd
from tests.benchmarks.delays import of_delays
from tests.benchmarks.ground import Ground
from tests.benchmarks.row import Figures, Measure, Row, Side, within
from tests.benchmarks.serving import serving
from tests.benchmarks.text import item
from tests.benchmarks.writer import UPSERT, commit_steadily

COMMITS_PER_SECOND = 10
BULK_ROWS = 1_000_000
ITEMS = 100  # written in turn
BULK_INSERT = """
insert into streams.bench (group_id, id, data)
select 'bulk', 'i' || i, jsonb_build_object('n', i::text, 'text', md5(i::text) || md5((-i)::text))
from generate_series(1, $1::int) i
"""
ANSWER_SECONDS = 600  # for as many rows on a slow disk


@asynccontextmanager
async def beside(ground: Ground, *, rows: int) -> AsyncIterator[Measure]:
    """One subscriber, 10 commits a second in its group, and one of `rows` in another. Each round has a new server."""
    postgres = await ground.postgres()

    async def measure() -> Figures:
        async with serving(ground) as server, crowd(server.port, ["g"]) as people:
            await postgres.checkpoint()
            return await _measure(ground, server.database_url, people, ground.scale.size(rows, rows // 50))

    yield measure


async def _measure(ground: Ground, url: str, people: Crowd, rows: int) -> Figures:
    """Commits go on until the large one is over, in spans, and for one span more."""
    span = COMMITS_PER_SECOND * ground.scale.size(10, 1)
    bulk = asyncio.create_task(_commit(url, rows))
    delays: list[float] = []
    first = 0
    is_last = False
    while not is_last:
        is_last = bulk.done() and len(delays) >= span  # without one as with a quick one: two spans
        numbers = range(first, first + span)
        first += span
        await people.expect(span, record=True)
        acknowledged = await commit_steadily(
            url, UPSERT, lambda n: ("g", f"i{n % ITEMS}", item(n, f"i{n % ITEMS}")), numbers, COMMITS_PER_SECOND
        )
        arrival = await people.arrival()
        assert set(arrival.numbers) == set(numbers)
        delays += [(came - acknowledged[n]) / 1e6 for n, came in zip(arrival.numbers, arrival.times_ns, strict=True)]
    return of_delays(delays) | {"commits": len(delays), "bulk_seconds": await bulk}


async def _commit(url: str, rows: int) -> float:
    """Commit so many rows that nobody subscribed to; how long it took."""
    if not rows:
        return 0.0
    connection = await asyncpg.connect(url)
    try:
        began = time.perf_counter()
        await connection.execute(BULK_INSERT, rows, timeout=ANSWER_SECONDS)
        return time.perf_counter() - began
    finally:
        await connection.close()


WITH_SIDE = Side("beside a large commit", partial(beside, rows=BULK_ROWS))
WITHOUT_SIDE = Side("beside none", partial(beside, rows=0))

ROWS = (
    Row(
        "bulk",
        "commit to frame, 10 commits/s, while a commit of 1,000,000 rows in another group is made, against none",
        WITH_SIDE,
        WITHOUT_SIDE,
        "p99_ms",
        within(50),
    ),
)
