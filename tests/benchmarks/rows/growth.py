"""What a log of ten million changes costs where a log of a hundred thousand did: nothing more, is the aim.

The log is one that was restored: made in the database, with the transactions of another cluster, and adopted. So its
xids need not be used up, and adoption is measured by the way.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
from websockets.asyncio.client import connect

from tests.benchmarks.crowd import V1
from tests.benchmarks.ground import Ground
from tests.benchmarks.row import Figures, Measure, Row, Side, at_most, below
from tests.benchmarks.serving import OUR_APP, run_server
from tests.benchmarks.text import TEXT
from tidelog.store.adoption import adopt
from tidelog.store.connecting import connector

CHANGES, CHANGES_FEW = 10_000_000, 100_000
PARTITIONS = 10  # as many as the housekeeper would have made
QUICK = 100  # a quick run's logs are so many times smaller
CHANGES_OF_A_GROUP = 50
ASKED = 20  # times, of which the median counts
AT_ONCE = 1_000_000

# One change a commit, in groups in turn; every so often one in the group `rare`. A batch has a hundred commits.
MAKE_CHANGES = """
insert into streams.change (seq, xid, stream, group_id, id, op, version, data)
select n, (n + 1000)::text::xid8, 'bench',
    case when n % $4 = 0 then 'rare' else 'g' || n % $3 end, 'i' || n % 7, 'update', n,
    jsonb_build_object('id', 'i' || n % 7, 'n', n::text, 'text', $5::text)
from generate_series($1::bigint, $2::bigint) n
"""
MAKE_COMMITS = """
insert into streams.commit (number, xid, last_seq, at, snapshot)
select n, (n + 1000)::text::xid8, n, timestamptz '2026-01-01' + n * interval '10 milliseconds',
    case when n % 100 = 0 then (format('%s:%s:', n + 1001, n + 1001))::pg_snapshot end
from generate_series($1::bigint, $2::bigint) n
"""
EPOCH = """
insert into streams.epoch (system_identifier, timeline, database, log, since_number, began_at)
values (1, 1, 1, 1, 0, clock_timestamp())
"""
SIZE = """
select sum(pg_total_relation_size(partition)) / (select count(*) from streams.commit)::float8 from streams.partitions()
"""
PLACE = """
select (select max(number) from streams.commit), (select epoch::text from streams.epoch order by began_at desc limit 1)
"""
GROUP = "select * from streams.bench_history where group_id = 'rare' order by position, seq"
ITEM = "select * from streams.bench_history where group_id = 'rare' and id = 'i3' order by position, seq"


@asynccontextmanager
async def grown(ground: Ground, *, changes: int, partitions: int) -> AsyncIterator[Measure]:
    """A log of so many changes in so many partitions, of which 20 are in the group that is asked for."""
    postgres = await ground.postgres()
    folder = ground.steps_folder({})
    changes = ground.scale.size(changes, changes // QUICK)
    async with postgres.database(folder) as url:
        adopted_in = await _make(url, changes, partitions)
        await postgres.execute(url, "vacuum analyze streams.change", "vacuum analyze streams.commit", "checkpoint")

        async def measure() -> Figures:
            async with run_server(url, folder, app=OUR_APP) as server:
                connection = await asyncpg.connect(url)
                try:
                    return {
                        "group_ms": await _ask(connection, GROUP),
                        "item_ms": await _ask(connection, ITEM),
                        "resume_ms": await _resume(server.port, url, changes // 10),
                        "adopt_s": adopted_in,
                        "bytes_per_change": await connection.fetchval(SIZE),
                        "drop_ms": await _drop(connection, changes),
                    }
                finally:
                    await connection.close()

        yield measure


async def _make(url: str, changes: int, partitions: int) -> float:
    """Fill the log; how long its adoption took."""
    connection = await asyncpg.connect(url)
    try:
        for n in range(1, partitions + 1):
            await connection.execute("select streams.cut_partition($1)", 1000 + n * changes // partitions)
        groups = max(1, changes // CHANGES_OF_A_GROUP)
        for first in range(1, changes + 1, AT_ONCE):
            last = min(first + AT_ONCE - 1, changes)
            await connection.execute(MAKE_CHANGES, first, last, groups, changes // 20, TEXT, timeout=600)
            await connection.execute(MAKE_COMMITS, first, last, timeout=600)
        await connection.execute("select setval('streams.write_seq', $1)", changes)
        await connection.execute(EPOCH)
    finally:
        await connection.close()
    began = time.perf_counter()
    assert await adopt(connector(url)) is not None
    return time.perf_counter() - began


async def _ask(connection: asyncpg.Connection[asyncpg.Record], query: str) -> float:
    """What Postgres says that a query takes to execute, in milliseconds."""
    times = []
    for _ in range(ASKED):
        plan = await connection.fetchval(f"explain (analyze, timing off, format json) {query}")
        times.append(json.loads(plan)[0]["Execution Time"])
    return statistics.median(times)


async def _resume(port: int, url: str, behind: int) -> float:
    """From subscribing, so many commits behind, to having all that the group missed, in milliseconds."""
    connection = await asyncpg.connect(url)
    try:
        head, epoch = await connection.fetchrow(PLACE)
    finally:
        await connection.close()
    times = []
    for _ in range(ASKED // 2):
        async with connect(f"ws://127.0.0.1:{port}/", subprotocols=[V1], compression=None) as socket:
            message = {"type": "subscribe", "id": "s", "stream": "bench", "group": "rare", "since": head - behind}
            began = time.perf_counter()
            await socket.send(json.dumps({**message, "epoch": epoch}))
            while (told := json.loads(await socket.recv()))["type"] != "live":
                assert told["type"] != "reset", told
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


async def _drop(connection: asyncpg.Connection[asyncpg.Record], changes: int) -> float:
    """How long it takes to drop the first tenth of the log, once its commits are removed, in milliseconds."""
    await connection.execute("delete from streams.commit where number <= $1", changes // 10)
    began = time.perf_counter()
    await connection.fetchval("select streams.drop_partitions()")
    took = time.perf_counter() - began
    # As Postgres does within a minute (0013_vacuum/commit.sql): the next round is not to be of this moment.
    await connection.execute("vacuum streams.commit")
    return took * 1000


MANY = Side("a log of 10,000,000", partial(grown, changes=CHANGES, partitions=PARTITIONS))
FEW = Side("a log of 100,000", partial(grown, changes=CHANGES_FEW, partitions=1))

ROWS = (
    Row("growth-group", "history of a group of 20 changes", MANY, FEW, "group_ms", at_most(3)),
    Row("growth-item", "history of an item of it", MANY, FEW, "item_ms", at_most(3)),
    Row(
        "growth-resume",
        "a subscriber comes back, a tenth of the log behind, in a group with 2 of it",
        MANY,
        FEW,
        "resume_ms",
        below(50),
    ),
    Row("growth-adopt", "adopting it after a restore", MANY, FEW, "adopt_s", below(2)),
    Row("growth-drop", "dropping its first tenth", MANY, FEW, "drop_ms", below(100)),
    Row("growth-bytes", "bytes of the log for a change, its indexes included", MANY, FEW, "bytes_per_change"),
)
