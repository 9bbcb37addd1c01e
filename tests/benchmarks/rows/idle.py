"""What sockets cost that do nothing: memory for each, and CPU time when nothing happens."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from tests.benchmarks.cpu import memory_bytes, pid_cpu_seconds
from tests.benchmarks.crowd import crowd
from tests.benchmarks.ground import Ground
from tests.benchmarks.row import CannotRunError, Figures, Measure, Row, Side, at_most, below, within
from tests.benchmarks.serving import OUR_APP, run_server
from tests.harness import Server

GROUPS = 1000
SOCKETS = 15_000
DESCRIPTORS_SPARE = 200
PING_INTERVAL_SECONDS = 20  # uvicorn's: the shortest time in which every socket is pinged once
BARE_APP = "tests.benchmarks.processes.bare_sockets:app"


@asynccontextmanager
async def tidelog(ground: Ground) -> AsyncIterator[Measure]:
    """Our server; each socket has joined a group, 15 of them each group."""
    postgres, steps = await ground.postgres(), ground.steps_folder({})
    async with postgres.database(steps) as url:
        yield partial(_measure, ground, partial(run_server, url, steps, app=OUR_APP))


@asynccontextmanager
async def bare(ground: Ground) -> AsyncIterator[Measure]:
    """An ASGI function under the same uvicorn; each socket got one answer to one message."""
    yield partial(_measure, ground, partial(run_server, "unused", app=BARE_APP))


async def _measure(ground: Ground, run: Callable[[], AbstractAsyncContextManager[Server]]) -> Figures:
    """One round has a process of its own, since memory that was used before is not given back."""
    sockets = ground.scale.size(SOCKETS, 150)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < sockets + DESCRIPTORS_SPARE:
        raise CannotRunError(f"it needs {sockets + DESCRIPTORS_SPARE} open files in a process: see ulimit -Hn")
    groups = [f"g{n % GROUPS}" for n in range(sockets)]
    async with run() as server:
        pid = server.process.pid
        async with crowd(server.port, groups[:1]):
            pass  # what the first socket makes once is not the others'
        alone_percent = await _cpu_percent(pid, ground.scale.size(5, 1))
        before_bytes = memory_bytes(pid)
        began = time.perf_counter()
        async with crowd(server.port, groups) as people:
            opening_seconds = time.perf_counter() - began
            with_sockets_percent = await _cpu_percent(pid, ground.scale.size(PING_INTERVAL_SECONDS, 1))
            used_bytes = memory_bytes(pid) - before_bytes
            await people.check()
    return {
        "kib_per_socket": used_bytes / sockets / 1024,
        "cpu_percent": alone_percent,
        "cpu_percent_with_sockets": with_sockets_percent,
        "opened_per_second": sockets / opening_seconds,
    }


async def _cpu_percent(pid: int, seconds: int) -> float:
    before = pid_cpu_seconds(pid)
    await asyncio.sleep(seconds)
    return (pid_cpu_seconds(pid) - before) / seconds * 100


TIDELOG_SIDE = Side("tidelog, idle", tidelog)
BARE_SIDE = Side("bare uvicorn", bare)

ROWS = (
    Row(
        "idle-memory",
        "memory for each of 15,000 idle, subscribed sockets, against a bare uvicorn WebSocket app",
        TIDELOG_SIDE,
        BARE_SIDE,
        "kib_per_socket",
        at_most(1.3),
    ),
    Row("idle-cpu", "CPU of a server to which nobody connected", TIDELOG_SIDE, BARE_SIDE, "cpu_percent", below(1)),
    Row(
        "idle-cpu-sockets",
        "CPU of a server with 15,000 idle sockets, which are pinged: what it is more than uvicorn's own",
        TIDELOG_SIDE,
        BARE_SIDE,
        "cpu_percent_with_sockets",
        within(1),
    ),
)
