"""What a rule costs those who subscribe, and what a user costs others who asks for all that it may."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import jwt
from websockets.asyncio.client import ClientConnection, connect

from tests.benchmarks.crowd import V1
from tests.benchmarks.ground import Ground
from tests.benchmarks.programs import program
from tests.benchmarks.row import Figures, Measure, Row, Side
from tests.benchmarks.serving import serving

JOINS, JOINS_QUICK = 5000, 100
AHEAD = 50  # joins under way
NO_LIMIT = {"TIDELOG_SOCKET_JOINS_PER_SECOND_MAX": "1000000", "TIDELOG_SOCKET_FRAMES_PER_SECOND_MAX": "1000000"}
RULED_STREAM = """
async def can_access(subscription, auth):
    return subscription["groupId"].startswith("g")


config = {"name": "bench", "schema": {"type": "object"}, "canAccess": can_access}
"""

GREEDY_CONNECTIONS = 50
LARGE_GROUPS = 20
LARGE_ITEMS, LARGE_ITEMS_QUICK = 2000, 10
POLITE_JOINS, POLITE_JOINS_QUICK = 100, 3
SECRET = "a secret of thirty-two bytes, or of more"
FILL = """
insert into streams.bench (group_id, id, data)
select 'large' || g, 'i' || i, jsonb_build_object('n', i::text, 'text', repeat('x', 200))
from generate_series(0, {groups} - 1) g, generate_series(1, {items}) i
"""


@asynccontextmanager
async def joining(ground: Ground, *, is_ruled: bool) -> AsyncIterator[Measure]:
    """One connection that subscribes to one empty group after the other, some at once, until each is live."""
    async with serving(ground, steps={"bench_stream": RULED_STREAM} if is_ruled else {}, **NO_LIMIT) as server:

        async def measure() -> Figures:
            joins = ground.scale.size(JOINS, JOINS_QUICK)
            async with _connected(server.ws_url) as socket:
                began = time.perf_counter()
                for n in range(AHEAD):
                    await _subscribe(socket, f"g{n}")
                for n in range(joins):
                    name = await _until_live(socket)
                    await socket.send(json.dumps({"type": "unsubscribe", "id": name}))
                    await _subscribe(socket, f"g{n + AHEAD}")
                return {"joins_per_second": joins / (time.perf_counter() - began)}

        yield measure


@asynccontextmanager
async def polite(ground: Ground, *, is_alone: bool) -> AsyncIterator[Measure]:
    """A user who subscribes to an empty group now and then, alone or beside one with 50 connections that never rest."""
    limits = {**NO_LIMIT, "TIDELOG_JWT_SECRET": SECRET}
    postgres = await ground.postgres()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(ground, **limits))
        items = ground.scale.size(LARGE_ITEMS, LARGE_ITEMS_QUICK)
        await postgres.execute(server.database_url, FILL.format(groups=LARGE_GROUPS, items=items))

        async def measure() -> Figures:
            async with AsyncExitStack() as round:
                if not is_alone:
                    greedy = await round.enter_async_context(
                        program(sys.executable, "-m", "tests.benchmarks.processes.greedy")
                    )
                    token, connections = _token("greedy"), ground.scale.size(GREEDY_CONNECTIONS, 2)
                    await greedy.ask(port=server.port, token=token, connections=connections, groups=LARGE_GROUPS)
                socket = await round.enter_async_context(_connected(f"{server.ws_url}/?authToken={_token('polite')}"))
                times = []
                for n in range(ground.scale.size(POLITE_JOINS, POLITE_JOINS_QUICK)):
                    began = time.perf_counter()
                    await _subscribe(socket, f"small{n}")
                    await _until_live(socket)
                    times.append(time.perf_counter() - began)
                return {"join_p50_ms": statistics.median(times) * 1000, "join_max_ms": max(times) * 1000}

        yield measure


def _token(subject: str) -> str:
    return jwt.encode({"sub": subject, "exp": int(time.time()) + 3600}, SECRET, "HS256")


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[ClientConnection]:
    protocols: Any = [V1]
    async with connect(url, subprotocols=protocols, proxy=None, compression=None) as socket:
        yield socket


async def _subscribe(socket: ClientConnection, group: str) -> None:
    await socket.send(json.dumps({"type": "subscribe", "id": group, "stream": "bench", "group": group}))


async def _until_live(socket: ClientConnection) -> str:
    """Returns its name."""
    while True:
        told = json.loads(await socket.recv())
        if told["type"] == "error":
            raise RuntimeError(f"a join failed: {told}")
        if told["type"] == "live":
            return str(told["subscription"])


ROWS = (
    Row(
        "joins-rule",
        "subscriptions a second of one connection to a stream whose canAccess is asked, against one without a rule",
        Side("tidelog, with a rule", partial(joining, is_ruled=True)),
        Side("tidelog, without", partial(joining, is_ruled=False)),
        "joins_per_second",
    ),
    Row(
        "fairness",
        "how long a user's subscription takes beside another user's 50 connections that read large groups, "
        "against alone",
        Side("tidelog, beside a greedy user", partial(polite, is_alone=False)),
        Side("tidelog, alone", partial(polite, is_alone=True)),
        "join_p50_ms",
    ),
)
