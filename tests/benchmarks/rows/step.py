"""How many steps a second: a POST whose handler sets an item, until its committed 201 is there."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.benchmarks.ground import Ground
from tests.benchmarks.programs import program
from tests.benchmarks.row import Figures, Measure, Row, Side, at_least
from tests.benchmarks.rows.write import BARE, LOG
from tests.benchmarks.serving import run_server, serving
from tests.harness import Server

CLIENTS = 64
PATH = "/groups/g/items"
STEP = """
config = {
    "type": "api",
    "name": "SetItem",
    "method": "POST",
    "path": "/groups/:group/items",
    "bodySchema": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    "emits": [],
}


async def handler(req, context):
    body = req["body"]
    return {"status": 201, "body": await context.streams.bench.set(req["pathParams"]["group"], body["id"], body)}
"""


EMITTING_STEP = STEP.replace('"emits": []', '"emits": ["set"]').replace(
    "    return {", '    await context.emit({"topic": "set", "data": {"id": body["id"]}})\n    return {'
)
SUBSCRIBER = """
config = {"type": "event", "name": "Subscribe", "subscribes": ["set"], "emits": []}
def handler(input, context): ...
"""


@asynccontextmanager
async def tidelog(ground: Ground) -> AsyncIterator[Measure]:
    """A step that sets an item, with all that comes with it: schemas, trigger, sequencer, reader."""
    async with serving(ground, steps={"set_item_step": STEP}) as server, _posting(ground, server) as measure:
        yield measure


@asynccontextmanager
async def emitting(ground: Ground) -> AsyncIterator[Measure]:
    """The same, which also emits an event that a step subscribes to. Nobody handles it meanwhile."""
    steps = {"set_item_step": EMITTING_STEP, "subscribe_step": SUBSCRIBER}
    async with (
        serving(ground, steps=steps, TIDELOG_WORK_AT_ONCE_MAX="0") as server,
        _posting(ground, server) as measure,
    ):
        yield measure


@asynccontextmanager
async def bare(ground: Ground, *triggers: str) -> AsyncIterator[Measure]:
    """A bare Litestar handler that does the same upsert into a bare table, in a transaction, with raw asyncpg."""
    postgres = await ground.postgres()
    async with postgres.database() as url:
        await postgres.execute(url, BARE, *triggers)
        async with (
            run_server(url, app="tests.benchmarks.processes.bare_step:app") as server,
            _posting(ground, server) as measure,
        ):
            yield measure


@asynccontextmanager
async def _posting(ground: Ground, server: Server) -> AsyncIterator[Measure]:
    postgres = await ground.postgres()
    async with program(sys.executable, "-m", "tests.benchmarks.processes.poster") as clients:

        async def measure() -> Figures:
            await postgres.checkpoint()
            seconds = ground.scale.size(5, 1)
            figures: Figures = await clients.ask(port=server.port, path=PATH, clients=CLIENTS, seconds=seconds)
            return figures

        yield measure


OURS = Side("tidelog, step", tidelog)

ROWS = (
    Row(
        "step",
        "POST to committed 201, 64 keep-alive clients, against a bare Litestar handler with raw asyncpg",
        OURS,
        Side("bare handler", bare),
        "posts_per_second",
        at_least(0.8),
    ),
    Row(
        "step-log",
        "the same, against a bare handler whose table has a trigger that does nothing but insert into a log",
        OURS,
        Side("bare handler, logging trigger", lambda ground: bare(ground, *LOG)),
        "posts_per_second",
    ),
    Row(
        "step-emit",
        "a step that also emits an event, against the step without",
        Side("tidelog, step that emits", emitting),
        OURS,
        "posts_per_second",
    ),
)
