"""What writers feel of it when old changes go: nothing, is the aim.

The log that is removed is one that was restored, as in growth.py: a million changes in a partition of their own, all of
them past retention when the server starts. It removes their commits, and then drops the partition, beside the writers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from tests.benchmarks.delays import of_delays
from tests.benchmarks.ground import Ground
from tests.benchmarks.pgbench import Load, run_pgbench
from tests.benchmarks.row import Figures, Measure, Row, Side, at_most
from tests.benchmarks.rows.growth import EPOCH
from tests.benchmarks.serving import OUR_APP, run_server
from tests.benchmarks.text import TEXT
from tests.harness import eventually
from tidelog.store.adoption import adopt
from tidelog.store.connecting import connector

CHANGES = 1_000_000
CHANGES_OF_A_COMMIT = 5
CLIENTS = 8
WRITES_PER_SECOND = 500
SECONDS = 60  # the removal takes 53
REMOVED_TIMEOUT_SECONDS = 180
FIRST_XID = 1000

MAKE_CHANGES = """
insert into streams.change (seq, xid, stream, group_id, id, op, version, data)
select n, (n / $2::int + $3::int)::text::xid8, 'bench', 'g' || n % 1000, 'i' || n % 7, 'update', n,
    jsonb_build_object('id', 'i' || n % 7, 'n', n::text, 'text', $4::text)
from generate_series(1, $1::int) n
"""
MAKE_COMMITS = """
insert into streams.commit (number, xid, last_seq, at, snapshot)
select n + 1, (n + $3::int)::text::xid8, least((n + 1) * $2::int - 1, $1),
    timestamptz '2020-01-01' + n * interval '10 milliseconds',
    case when n % 100 = 0 or n = $1 / $2 then format('%s:%s:', n + $3 + 1, n + $3 + 1)::pg_snapshot end
from generate_series(0, $1::int / $2::int) n
"""
IS_DROPPED = "select not exists (select from streams.change where xid < $1::int::text::xid8)"


@asynccontextmanager
async def writing(ground: Ground, **settings: str) -> AsyncIterator[Measure]:
    """Upserts at a steady rate, of which each takes what it takes from when it is due."""
    postgres = await ground.postgres()
    changes = ground.scale.size(CHANGES, CHANGES // 100)

    async def measure() -> Figures:
        folder = ground.steps_folder({})
        load = Load("streams.bench", 100)
        async with postgres.database(folder) as url:
            above = await _make(url, changes)
            await postgres.execute(
                url, load.fill, "vacuum analyze streams.change", "vacuum analyze streams.commit", "checkpoint"
            )
            async with run_server(url, folder, app=OUR_APP, **settings):
                removal = asyncio.create_task(_until_dropped(url, above, is_awaited=bool(settings)))
                delays = await _write(ground, url, load)
                removed_in = await removal
        return of_delays(delays) | {"writes": len(delays), "removed_in_s": removed_in}

    yield measure


async def _make(url: str, changes: int) -> int:
    """Fill the log; the xid above all of it."""
    above = FIRST_XID + changes // CHANGES_OF_A_COMMIT + 1
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("select streams.cut_partition($1::int::text::xid8)", above)
        await connection.execute(MAKE_CHANGES, changes, CHANGES_OF_A_COMMIT, FIRST_XID, TEXT, timeout=600)
        await connection.execute(MAKE_COMMITS, changes, CHANGES_OF_A_COMMIT, FIRST_XID, timeout=600)
        await connection.execute("select setval('streams.write_seq', $1)", changes)
        await connection.execute(EPOCH)
    finally:
        await connection.close()
    assert await adopt(connector(url)) is not None
    return above


async def _write(ground: Ground, url: str, load: Load) -> list[float]:
    """The delays of the writes, in milliseconds."""
    postgres, folder = await ground.postgres(), ground.new_folder("retention")
    script = load.write_script(folder)
    limit = f"--time={ground.scale.size(SECONDS, 3)}"
    log = ("--log", f"--log-prefix={folder / 'written'}")
    await run_pgbench(postgres, url, script, limit, f"--rate={WRITES_PER_SECOND}", *log, clients=CLIENTS)
    return [
        float(line.split()[2]) / 1000 for path in folder.glob("written.*") for line in path.read_text().splitlines()
    ]


async def _until_dropped(url: str, above: int, *, is_awaited: bool) -> float:
    """How long it took until the last old change was gone, in seconds; 0 if nobody removes them."""
    if not is_awaited:
        return 0.0
    connection = await asyncpg.connect(url)
    try:
        began = time.perf_counter()
        await eventually(lambda: connection.fetchval(IS_DROPPED, above), REMOVED_TIMEOUT_SECONDS)
        return time.perf_counter() - began
    finally:
        await connection.close()


WITH_SIDE = Side("beside a removal", partial(writing, TIDELOG_RETENTION_SECONDS="86400"))
WITHOUT_SIDE = Side("beside none", writing)

ROWS = (
    Row(
        "retention",
        "writes at 500/s, while a million old changes and their 200,000 commits are removed, against none",
        WITH_SIDE,
        WITHOUT_SIDE,
        "p99_ms",
        at_most(1.1),
    ),
)
