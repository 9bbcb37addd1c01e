"""How many events a second are handled: emitted by steps, until the last handler has committed an item."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from tests.benchmarks.ground import Ground
from tests.benchmarks.programs import program
from tests.benchmarks.row import Figures, Measure, Row, Side, at_least
from tests.benchmarks.rows.write import BARE
from tests.benchmarks.serving import serving

AT_ONCE = 10
EVENTS_OF_A_STEP = 100
POLL_SECONDS = 0.01
JOBS = "create table job (id bigint generated always as identity primary key, input jsonb not null)"
PUT = (
    "insert into job (input) select jsonb_build_object('id', ($1::int * 1000 + n)::text) "
    "from generate_series(1, $2::int) as n"
)
EMIT = f"""
config = {{"type": "api", "name": "Emit", "method": "POST", "path": "/emit/:n", "emits": ["made"]}}


async def handler(req, context):
    for number in range({EVENTS_OF_A_STEP}):
        await context.emit({{"topic": "made", "data": {{"id": req["pathParams"]["n"] + "-" + str(number)}}}})
    return {{"status": 200}}
"""
HANDLE = """
config = {"type": "event", "name": "Handle", "subscribes": ["made"], "emits": []}


async def handler(input, context):
    await context.streams.bench.set("g", input["id"], input)
"""


@asynccontextmanager
async def tidelog(ground: Ground) -> AsyncIterator[Measure]:
    """Steps that emit, and a step that sets an item for each event, in one server."""
    settings = {"TIDELOG_WORK_AT_ONCE_MAX": str(AT_ONCE)}
    async with (
        serving(ground, steps={"emit_step": EMIT, "handle_step": HANDLE}, **settings) as server,
        server.http() as client,
    ):

        async def emit(number: int) -> None:
            (await client.post(f"/emit/{number}")).raise_for_status()

        async with _emptying(ground, server.database_url, "streams.step_job", emit) as measure:
            yield measure


@asynccontextmanager
async def bare(ground: Ground) -> AsyncIterator[Measure]:
    """As many workers with a connection each, which take jobs by SKIP LOCKED, in a process without anything else."""
    postgres = await ground.postgres()
    async with postgres.database() as url:
        await postgres.execute(url, BARE, JOBS)
        connection = await asyncpg.connect(url)

        async def emit(number: int) -> None:
            await connection.execute(PUT, number, EVENTS_OF_A_STEP)

        worker = program(sys.executable, "-m", "tests.benchmarks.processes.bare_worker", url, str(AT_ONCE))
        async with worker, _emptying(ground, url, "job", emit) as measure:
            yield measure
        await connection.close()


@asynccontextmanager
async def _emptying(
    ground: Ground, url: str, table: str, emit: Callable[[int], Awaitable[None]]
) -> AsyncIterator[Measure]:
    postgres = await ground.postgres()
    connection = await asyncpg.connect(url)

    async def measure() -> Figures:
        await postgres.checkpoint()
        steps = ground.scale.size(50, 2)
        began = time.perf_counter()
        for number in range(steps):
            await emit(number)
        emitted = time.perf_counter()
        while await connection.fetchval(f"select exists (select from {table})"):  # noqa: ASYNC110 - tables send no signals
            await asyncio.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        return {
            "events_per_second": steps * EVENTS_OF_A_STEP / seconds,
            "emits_per_second": steps * EVENTS_OF_A_STEP / (emitted - began),
        }

    yield measure
    await connection.close()


ROWS = (
    Row(
        "events",
        "events of steps, handled by a step that sets an item, 10 at a time, against a bare SKIP LOCKED worker",
        Side("tidelog, event step", tidelog),
        Side("bare worker", bare),
        "events_per_second",
        at_least(0.5),
    ),
)
