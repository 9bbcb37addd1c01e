"""How fast one update reaches all sockets of its group: the socket side alone, and from commit to socket."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg

from tests.benchmarks import broadcasts
from tests.benchmarks.broadcasts import Broadcasting, Updates
from tests.benchmarks.cpu import pid_cpu_seconds
from tests.benchmarks.crowd import V1, Arrival, Crowd, crowd
from tests.benchmarks.ground import Ground
from tests.benchmarks.row import Figures, Measure, Row, Side, at_least
from tests.benchmarks.serving import serving
from tests.benchmarks.text import item
from tests.benchmarks.writer import UPSERT
from tests.harness import Server

CPU_TICK_SECONDS = 0.01  # what Linux counts CPU time in
WRITERS = 4  # enough to commit faster than any server sends to 100 sockets


@dataclass(frozen=True)
class Shape:
    """Who subscribes, and what is sent in a round: at full size 300,000 deliveries, seconds."""

    groups: int
    sockets: int  # in each group
    updates: int  # to each group
    per_turn: int  # updates handed over in each turn of the server's loop

    def names(self, ground: Ground) -> list[str]:
        return [f"g{n}" for n in range(ground.scale.size(self.groups, min(self.groups, 3)))]

    def sockets_of(self, ground: Ground) -> int:
        return ground.scale.size(self.sockets, 5)

    def updates_of(self, ground: Ground) -> int:
        return ground.scale.size(self.updates, 20)


HUNDRED = Shape(groups=1, sockets=100, updates=3000, per_turn=1)
THOUSAND = Shape(groups=1, sockets=1000, updates=300, per_turn=1)
GROUPS = Shape(groups=1000, sockets=10, updates=30, per_turn=10)


@asynccontextmanager
async def from_memory(
    ground: Ground,
    *,
    shape: Shape,
    dialect: str | None,
    server: Callable[[Ground, str | None], AbstractAsyncContextManager[Broadcasting]],
) -> AsyncIterator[Measure]:
    """A server that is given updates in memory, and the crowd that gets them."""
    groups, numbers = shape.names(ground), itertools.count(1)
    sockets, updates = shape.sockets_of(ground), shape.updates_of(ground)
    async with (
        server(ground, dialect) as broadcasting,
        crowd(broadcasting.port, groups * sockets, dialect=dialect, joins=broadcasting.joins) as people,
    ):

        async def measure() -> Figures:
            first = next(numbers) * len(groups) * updates
            await people.expect(updates)
            cpu = pid_cpu_seconds(broadcasting.pid), pid_cpu_seconds(people.pid)
            wanted = Updates(updates * len(groups), first, groups, shape.per_turn)
            started_ns = await broadcasting.broadcast(wanted)
            arrival = await people.arrival()
            last = first + updates * len(groups)
            _check(arrival, dict.fromkeys(range(last - len(groups), last), sockets))
            server_seconds = pid_cpu_seconds(broadcasting.pid) - cpu[0]
            return _rates(started_ns, arrival, people, updates) | {
                "deliveries_per_cpu_second": people.sockets * updates / max(server_seconds, CPU_TICK_SECONDS),
                "server_cpu_seconds": server_seconds,
                "crowd_cpu_seconds": pid_cpu_seconds(people.pid) - cpu[1],
            }

        yield measure


@asynccontextmanager
async def from_commit(ground: Ground, *, shape: Shape, dialect: str | None) -> AsyncIterator[Measure]:
    """The whole way, on a server of its own."""
    async with serving(ground) as server, delivering(ground, server, shape, dialect) as measure:
        yield measure


@asynccontextmanager
async def delivering(
    ground: Ground,
    server: Server,
    shape: Shape,
    dialect: str | None,
    *,
    writers: int = WRITERS,
    at_once: bool = False,
) -> AsyncIterator[Measure]:
    """Commits of one upsert each, by a few writers as fast as they can, to the hands of every socket."""
    group, numbers = "group", itertools.count(1)
    sockets, updates = shape.sockets_of(ground), shape.updates_of(ground)
    postgres = await ground.postgres()
    async with (
        asyncpg.create_pool(server.database_url, min_size=writers, max_size=writers) as pool,
        crowd(server.port, [group] * sockets, dialect=dialect) as people,
    ):

        async def write(own: range) -> None:
            async with pool.acquire() as connection:
                upsert = await connection.prepare(UPSERT)
                for n in own:
                    await upsert.fetchval(group, f"i{own[0] % writers}", item(n))

        async def measure() -> Figures:
            first = next(numbers) * updates
            await postgres.checkpoint()
            await people.expect(updates, at_once=at_once)
            cpu = pid_cpu_seconds(server.process.pid), pid_cpu_seconds(people.pid), postgres.cpu_seconds()
            started_ns = time.perf_counter_ns()
            await asyncio.gather(*(write(range(first + one, first + updates, writers)) for one in range(writers)))
            committed_ns = time.perf_counter_ns()
            arrival = await people.arrival()
            # The writers' last commits may be numbered in any order; all sockets end on the same one.
            (last,) = arrival.lasts
            assert last >= first + updates - writers * 2 and arrival.lasts[last] == sockets
            return _rates(started_ns, arrival, people, updates) | {
                "writing_seconds": (committed_ns - started_ns) / 1e9,
                "server_cpu_seconds": pid_cpu_seconds(server.process.pid) - cpu[0],
                "crowd_cpu_seconds": pid_cpu_seconds(people.pid) - cpu[1],
                "postgres_cpu_seconds": postgres.cpu_seconds() - cpu[2],
            }

        yield measure


def _rates(started_ns: int, arrival: Arrival, people: Crowd, updates: int) -> dict[str, float]:
    updates_per_second = updates / (arrival.last_ns - started_ns) * 1e9
    return {
        "deliveries_per_second": updates_per_second * people.sockets,
        "sets_per_second": updates_per_second,
        "message_size_bytes": arrival.size_bytes,
    }


def _check(arrival: Arrival, lasts: dict[int, int]) -> None:
    if arrival.lasts != lasts:
        raise RuntimeError(
            f"sockets ended on {dict(list(arrival.lasts.items())[:5])}..., not {list(lasts.items())[:5]}"
        )


def _against_peers(name: str, says: str, shape: Shape, dialect: str | None, **aims: float | None) -> list[Row]:
    """Rows of one shape in one dialect, against the peers that are named with an aim, or None."""
    servers = {"ws": broadcasts.ws, "picows": broadcasts.picows}
    ours = Side(f"tidelog, {name}", partial(from_memory, shape=shape, dialect=dialect, server=broadcasts.fed))
    return [
        Row(
            f"{name}-{peer}",
            f"{says}, against {peer}",
            ours,
            Side(f"{peer}, {name}", partial(from_memory, shape=shape, dialect=dialect, server=servers[peer])),
            "deliveries_per_second",
            None if aim is None else at_least(aim),
        )
        for peer, aim in aims.items()
    ]


def _whole_way(name: str, says: str, shape: Shape) -> Row:
    return Row(
        name,
        says,
        Side(f"tidelog, {name}", partial(from_commit, shape=shape, dialect=None)),
        Side(f"ws, {name}", partial(from_memory, shape=shape, dialect=None, server=broadcasts.ws)),
        "deliveries_per_second",
    )


ROWS = (
    *_against_peers("fan-out-100", "deliveries of updates to 100 sockets", HUNDRED, None, ws=1.1, picows=0.9),
    *_against_peers("fan-out-1000", "deliveries of updates to 1,000 sockets", THOUSAND, None, ws=1.4, picows=0.9),
    *_against_peers("fan-out-v1-100", "to 100 sockets in tidelog.v1", HUNDRED, V1, ws=1.1, picows=0.9),
    *_against_peers("fan-out-v1-1000", "to 1,000 sockets in tidelog.v1", THOUSAND, V1, ws=1.4, picows=0.9),
    *_against_peers(
        "fan-out-groups", "deliveries to 1,000 groups with 10 sockets each", GROUPS, None, ws=1.2, picows=None
    ),
    _whole_way("fan-out-commit-100", "from commit to 100 sockets, against ws from memory", HUNDRED),
    _whole_way("fan-out-commit-1000", "from commit to 1,000 sockets, against ws from memory", THOUSAND),
)
