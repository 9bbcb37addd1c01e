"""How fast a subscriber gets what is there already: a group's snapshot, and the commits that it missed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from websockets.asyncio.client import connect

from tests.benchmarks.crowd import V1, crowd
from tests.benchmarks.ground import Ground
from tests.benchmarks.numbering import wait_until_numbered
from tests.benchmarks.pgbench import Load, run_pgbench
from tests.benchmarks.row import CannotRunError, Figures, Measure, Row, Side, at_least
from tests.benchmarks.serving import serving
from tests.benchmarks.text import TEXT
from tests.harness import Server

ITEMS, ITEMS_QUICK = 100_000, 1000
COMMITS, COMMITS_QUICK = 100_000, 1000
WRITERS = 10
GROUP = "g1"

FILL = """
insert into streams.bench (group_id, id, data)
select $1, 'i' || i, jsonb_build_object('n', lpad(i::text, 7, '0'), 'text', $2::text) from generate_series(1, $3) i
"""
FETCH_ITEMS = "select id, version, data::text from streams.bench where group_id = $1 order by created_at, id"
FETCH_COMMITS = """
select n.number, n.at, c.op, c.id, c.version, c.data::text
from streams.commit n join streams.change c on c.xid = n.xid
where n.number > $2 and c.stream = 'bench' and c.group_id = $1
order by n.number, c.seq
"""


@asynccontextmanager
async def snapshot(ground: Ground, *, dialect: str | None) -> AsyncIterator[Measure]:
    """One subscriber that joins a large group, until it has all of it."""
    async with _large_group(ground) as server:
        items = ground.scale.size(ITEMS, ITEMS_QUICK)
        async with crowd(server.port, ["nobody"], dialect=dialect):
            pass  # the dialect is spoken

        async def measure() -> Figures:
            return {"items_per_second": await _catch_up(server, items, dialect)}

        yield measure


@asynccontextmanager
async def fetched_items(ground: Ground) -> AsyncIterator[Measure]:
    """asyncpg, fetching the same rows with the same JSON text."""
    async with _large_group(ground) as server:
        items = ground.scale.size(ITEMS, ITEMS_QUICK)
        async with _fetching(server, FETCH_ITEMS, items, "items_per_second", GROUP) as measure:
            yield measure


@asynccontextmanager
async def resumed(ground: Ground) -> AsyncIterator[Measure]:
    """One subscriber that comes back with an old position, until it is live."""
    async with _missed_commits(ground) as (server, since):
        commits = ground.scale.size(COMMITS, COMMITS_QUICK)

        async def measure() -> Figures:
            return {"commits_per_second": await _catch_up(server, commits, V1, **since)}

        yield measure


@asynccontextmanager
async def fetched_commits(ground: Ground) -> AsyncIterator[Measure]:
    """asyncpg, fetching the rows of the same commits."""
    async with _missed_commits(ground) as (server, since):
        commits = ground.scale.size(COMMITS, COMMITS_QUICK)
        async with _fetching(server, FETCH_COMMITS, commits, "commits_per_second", GROUP, since["since"]) as measure:
            yield measure


@asynccontextmanager
async def _large_group(ground: Ground) -> AsyncIterator[Server]:
    async with serving(ground) as server:
        connection = await asyncpg.connect(server.database_url)
        await connection.execute(FILL, GROUP, TEXT, ground.scale.size(ITEMS, ITEMS_QUICK))
        await wait_until_numbered(connection)
        await connection.execute("vacuum analyze")
        await connection.close()
        yield server


@asynccontextmanager
async def _missed_commits(ground: Ground) -> AsyncIterator[tuple[Server, dict[str, Any]]]:
    """A server, and where a client stood before the commits: what it says to come back."""
    postgres = await ground.postgres()
    async with serving(ground) as server:
        load = Load("streams.bench", groups=1)
        await postgres.execute(server.database_url, load.fill)
        connection = await asyncpg.connect(server.database_url)
        await wait_until_numbered(connection)
        since = await _position(server)
        await run_pgbench(
            postgres,
            server.database_url,
            load.write_script(ground.new_folder("pgbench")),
            f"--transactions={ground.scale.size(COMMITS, COMMITS_QUICK) // WRITERS}",
            clients=WRITERS,
            settings="-c synchronous_commit=off",  # they are only to be there
        )
        await wait_until_numbered(connection)
        await connection.execute("vacuum analyze")
        await connection.close()
        yield server, since


async def _position(server: Server) -> dict[str, Any]:
    try:
        async with connect(server.ws_url, subprotocols=[V1], proxy=None) as socket:  # type: ignore[list-item]
            if socket.subprotocol != V1:
                raise CannotRunError(f"the server does not speak {V1}")
            await socket.send(json.dumps({"type": "subscribe", "id": "s", "stream": "bench", "group": "nobody"}))
            told = json.loads(await socket.recv())
    except OSError as error:
        raise CannotRunError(f"no WebSocket: {error}") from error
    return {"since": told["position"], "epoch": told["epoch"]}


async def _catch_up(server: Server, items: int, dialect: str | None, **since: Any) -> float:
    async with crowd(server.port, [GROUP], dialect=dialect, **since) as people:
        if people.items != items:
            raise RuntimeError(f"it got {people.items} items, not {items}")
        return items / people.greeting_seconds


@asynccontextmanager
async def _fetching(server: Server, query: str, rows: int, figure: str, *arguments: Any) -> AsyncIterator[Measure]:
    connection = await asyncpg.connect(server.database_url, server_settings={"jit": "off"})
    try:
        prepared = await connection.prepare(query)

        async def measure() -> Figures:
            began = time.perf_counter()
            fetched: Sequence[asyncpg.Record] = await prepared.fetch(*arguments)
            seconds = time.perf_counter() - began
            if len(fetched) != rows:
                raise RuntimeError(f"it got {len(fetched)} rows, not {rows}")
            return {figure: rows / seconds}

        yield measure
    finally:
        await connection.close()


FETCHED_ITEMS_SIDE = Side("asyncpg, items", fetched_items)

ROWS = (
    Row(
        "snapshot",
        "a group of 100,000 items to one subscriber, against asyncpg fetching the same rows and JSON text",
        Side("tidelog, snapshot", partial(snapshot, dialect=None)),
        FETCHED_ITEMS_SIDE,
        "items_per_second",
        at_least(0.7),
    ),
    Row(
        "snapshot-v1",
        "the same in tidelog.v1",
        Side("tidelog.v1, snapshot", partial(snapshot, dialect=V1)),
        FETCHED_ITEMS_SIDE,
        "items_per_second",
        at_least(0.7),
    ),
    Row(
        "resume",
        "100,000 missed commits to a client that comes back, against asyncpg fetching the same rows",
        Side("tidelog.v1, resume", resumed),
        Side("asyncpg, commits", fetched_commits),
        "commits_per_second",
        at_least(0.5),
    ),
)
