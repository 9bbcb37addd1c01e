"""What a second server process adds to the fan-out, on a machine that the crowd needs a part of, too."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial

from tests.benchmarks import broadcasts
from tests.benchmarks.broadcasts import Broadcasting, Updates
from tests.benchmarks.cpu import pid_cpu_seconds
from tests.benchmarks.crowd import Crowd, crowd
from tests.benchmarks.ground import Ground
from tests.benchmarks.row import Figures, Measure, Row, Side, at_least

GROUP = "g"
SOCKETS = 1000
UPDATES = 100  # 25 KB for each socket, which the kernel holds for a crowd that doesn't read


@asynccontextmanager
async def over_processes(ground: Ground, *, processes: int) -> AsyncIterator[Measure]:
    """As many sockets as for one process, spread over several; each of these is given every update."""
    share, updates = ground.scale.size(SOCKETS, 6) // processes, ground.scale.size(UPDATES, 20)
    deliveries = share * processes * updates
    numbers = itertools.count(1)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(broadcasts.fed(ground, None)) for _ in range(processes)]
        crowds = [await stack.enter_async_context(crowd(server.port, [GROUP] * share)) for server in servers]

        async def deliver(*, is_crowd_stopped: bool) -> float:
            """Seconds until all is written or, if the crowd runs, until it has read all."""
            wanted = Updates(updates, next(numbers) * updates, [GROUP], per_turn=1)
            await asyncio.gather(*(people.expect(updates) for people in crowds))
            with _stopped(crowds if is_crowd_stopped else ()):
                started_ns = await asyncio.gather(*(server.broadcast(wanted) for server in servers))
                ended_ns = time.perf_counter_ns()
            arrivals = await asyncio.gather(*(people.arrival() for people in crowds))
            assert all(arrival.lasts == {wanted.first + updates - 1: share} for arrival in arrivals)
            if not is_crowd_stopped:
                ended_ns = max(arrival.last_ns for arrival in arrivals)
            return (ended_ns - min(started_ns)) / 1e9

        async def measure() -> Figures:
            figures = {"deliveries_per_second": deliveries / await deliver(is_crowd_stopped=True)}
            cpu = _cpu_seconds(servers), _cpu_seconds(crowds)
            figures["deliveries_per_second_beside_crowd"] = deliveries / await deliver(is_crowd_stopped=False)
            return figures | {
                "server_cpu_seconds_beside_crowd": _cpu_seconds(servers) - cpu[0],
                "crowd_cpu_seconds": _cpu_seconds(crowds) - cpu[1],
            }

        yield measure


@contextmanager
def _stopped(crowds: Sequence[Crowd]) -> Iterator[None]:
    """They have no CPU time; what is sent to them waits in the kernel."""
    for people in crowds:
        os.kill(people.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for people in crowds:
            os.kill(people.pid, signal.SIGCONT)


def _cpu_seconds(those: Iterable[Broadcasting | Crowd]) -> float:
    return sum(pid_cpu_seconds(one.pid) for one in those)


TWO = Side("two processes", partial(over_processes, processes=2))
ONE = Side("one process", partial(over_processes, processes=1))

ROWS = (
    Row(
        "processes",
        "deliveries to 1,000 sockets by two processes on both cores, against one",
        TWO,
        ONE,
        "deliveries_per_second",
        at_least(1.7),
    ),
    Row(
        "processes-beside-crowd",
        "the same while the crowd reads, on the same cores",
        TWO,
        ONE,
        "deliveries_per_second_beside_crowd",
    ),
)
