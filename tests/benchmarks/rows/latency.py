"""How long from a commit's acknowledgement until it is in a subscriber's hands."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from tests.benchmarks.cpu import pid_cpu_seconds
from tests.benchmarks.crowd import crowd
from tests.benchmarks.delays import of_delays
from tests.benchmarks.ground import Ground
from tests.benchmarks.programs import program
from tests.benchmarks.row import Figures, Measure, Row, Side, at_most, within
from tests.benchmarks.rows.write import BARE, LISTENER
from tests.benchmarks.serving import serving
from tests.benchmarks.text import item
from tests.benchmarks.writer import UPSERT, commit_steadily

COMMITS_PER_SECOND = 500
SOCKETS = 100
ITEMS = 100  # written in turn, so that no writer waits for another's row lock
NOTIFYING_UPSERT = """
with item as (
    insert into item (group_id, id, data) values ($1, $2, $3::text::jsonb)
    on conflict (group_id, id) do update set data = excluded.data
    returning data
)
select pg_notify('item', data::text) from item
"""


CUT = """
select streams.cut_partition((pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 100 + n * {width})::text::xid8)
from generate_series(0, {partitions}) n
"""
PARTITIONS = 100
PARTITION_TRANSACTIONS = 2_000  # less than a round commits: rounds go from one to the next


@asynccontextmanager
async def to_sockets(ground: Ground, *, partitions: int = 0) -> AsyncIterator[Measure]:
    """Our server with 100 sockets of the group; each delivery to each socket counts. So many partitions are added."""
    postgres = await ground.postgres()
    async with serving(ground) as server, crowd(server.port, ["g"] * SOCKETS) as people:
        if partitions:
            connection = await asyncpg.connect(server.database_url)
            await connection.execute(CUT.format(partitions=partitions, width=PARTITION_TRANSACTIONS))
            await connection.close()

        async def arrivals(commits: int) -> tuple[Sequence[int], Sequence[int]]:
            arrival = await people.arrival()
            assert len(arrival.numbers) == commits * SOCKETS
            return arrival.numbers, arrival.times_ns

        async def measure() -> Figures:
            await postgres.checkpoint()
            cpu = pid_cpu_seconds(server.process.pid), pid_cpu_seconds(people.pid)
            figures = await _measure(
                ground, server.database_url, UPSERT, lambda commits: people.expect(commits, record=True), arrivals
            )
            return {
                **figures,
                "server_cpu_seconds": pid_cpu_seconds(server.process.pid) - cpu[0],
                "crowd_cpu_seconds": pid_cpu_seconds(people.pid) - cpu[1],
            }

        yield measure


@asynccontextmanager
async def to_listener(ground: Ground) -> AsyncIterator[Measure]:
    """A bare table, a NOTIFY with the payload in the writer's transaction, and one connection that listens."""
    postgres = await ground.postgres()
    async with postgres.database() as url:
        await postgres.execute(url, BARE)
        async with program(sys.executable, "-m", LISTENER, url, "item") as listener:

            async def expect(commits: int) -> None:
                await listener.ask(messages=commits)

            async def arrivals(_commits: int) -> tuple[Sequence[int], Sequence[int]]:
                answer = await listener.answer()
                return answer["numbers"], answer["times_ns"]

            async def measure() -> Figures:
                await postgres.checkpoint()
                return await _measure(ground, url, NOTIFYING_UPSERT, expect, arrivals)

            yield measure


_rounds = itertools.count(1)


async def _measure(
    ground: Ground,
    url: str,
    statement: str,
    expect: Callable[[int], Awaitable[None]],
    arrivals: Callable[[int], Awaitable[tuple[Sequence[int], Sequence[int]]]],
) -> Figures:
    commits = COMMITS_PER_SECOND * ground.scale.size(5, 1)
    first = next(_rounds) * commits
    numbers = range(first, first + commits)
    await expect(commits)
    acknowledged = await commit_steadily(
        url, statement, lambda n: ("g", f"i{n % ITEMS}", item(n, f"i{n % ITEMS}")), numbers, COMMITS_PER_SECOND
    )
    came_numbers, came_ns = await arrivals(commits)
    assert set(came_numbers) == set(numbers)
    delays = [(came - acknowledged[n]) / 1e6 for n, came in zip(came_numbers, came_ns, strict=True)]
    seconds = (max(acknowledged.values()) - min(acknowledged.values())) / 1e9
    return of_delays(delays) | {"commits_per_second": commits / seconds}


SOCKETS_SIDE = Side("tidelog, latency", to_sockets)
PARTITIONS_SIDE = Side("tidelog, 100 partitions more", partial(to_sockets, partitions=PARTITIONS))
LISTEN_SIDE = Side("bare LISTEN", to_listener)

ROWS = (
    Row(
        "latency-p50",
        "commit acknowledged to frame in the hands of each of 100 sockets, 500 commits/s, against a bare LISTEN",
        SOCKETS_SIDE,
        LISTEN_SIDE,
        "p50_ms",
        within(1),
    ),
    Row("latency-p99", "the same, the slowest in a hundred", SOCKETS_SIDE, LISTEN_SIDE, "p99_ms", within(5)),
    Row(
        "latency-partitions",
        "the same with a log in 100 partitions more, against that in the few that it begins with",
        PARTITIONS_SIDE,
        SOCKETS_SIDE,
        "p50_ms",
        at_most(1.1),
    ),
)
