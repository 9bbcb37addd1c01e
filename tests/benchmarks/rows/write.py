"""How many upserts a second Postgres takes: numbered by us, into a bare table, with a NOTIFY in each transaction."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from tests.benchmarks.ground import Ground, Postgres
from tests.benchmarks.numbering import wait_until_numbered
from tests.benchmarks.pgbench import Load, Run, run_pgbench
from tests.benchmarks.programs import program
from tests.benchmarks.row import Figures, Measure, Row, Side, at_least
from tests.benchmarks.serving import serving

GROUPS = 100
BARE = "create table item (group_id text, id text, data jsonb not null, primary key (group_id, id))"
NAIVE = (
    "create table log (seq bigint generated always as identity primary key, "
    "at timestamptz not null default clock_timestamp(), group_id text, id text, op text, data jsonb)",
    """create function record() returns trigger language plpgsql as $$
       begin
           insert into log (group_id, id, op, data) values (new.group_id, new.id, lower(tg_op), new.data);
           perform pg_notify('item', json_build_object('group', new.group_id, 'id', new.id, 'data', new.data)::text);
           return null;
       end $$""",
    "create trigger record after insert or update on item for each row execute function record()",
)
LOG = (  # what any log of changes in a table costs, keyed as ours is
    "create table log (xid xid8, seq bigint generated always as identity, group_id text, id text, op text, "
    "version bigint, data jsonb, primary key (xid, seq))",
    """create function record() returns trigger language plpgsql as $$
       begin
           insert into log (xid, group_id, id, op, version, data)
           values (pg_current_xact_id(), new.group_id, new.id, lower(tg_op), 1, new.data);
           return null;
       end $$""",
    "create trigger record after insert or update on item for each row execute function record()",
)
LISTENER = "tests.benchmarks.processes.listener"


@asynccontextmanager
async def numbered(ground: Ground, *, groups: int) -> AsyncIterator[Measure]:
    """A stream's table, with a server whose sequencer numbers and whose reader follows."""
    async with serving(ground) as server, numbering(ground, server.database_url, groups) as measure:
        yield measure


@asynccontextmanager
async def numbering(ground: Ground, url: str, groups: int) -> AsyncIterator[Measure]:
    """Upserts in the database of a server; they count when they are numbered."""
    postgres, load = await ground.postgres(), Load("streams.bench", groups)
    await postgres.execute(url, load.fill)
    connection = await asyncpg.connect(url)
    try:

        async def measure() -> Figures:
            run = await _measure(ground, postgres, url, load)
            lag_seconds = await wait_until_numbered(connection)
            return _rate(run, lag_seconds) | {"numbering_lag_seconds": lag_seconds}

        yield measure
    finally:
        await connection.close()


@asynccontextmanager
async def bare(ground: Ground, *, groups: int) -> AsyncIterator[Measure]:
    """A table with the same key and data, and nothing else."""
    async with _table(ground, groups, BARE) as measure:
        yield measure


@asynccontextmanager
async def naive(ground: Ground, *, groups: int) -> AsyncIterator[Measure]:
    """What is often built: a trigger that logs the change and notifies with it, and somebody who listens."""
    async with _table(ground, groups, BARE, *NAIVE, listener=True) as measure:
        yield measure


@asynccontextmanager
async def logged(ground: Ground, *, groups: int) -> AsyncIterator[Measure]:
    """The least of it: a trigger that does nothing but insert the change into a log. Nobody numbers or reads it."""
    async with _table(ground, groups, BARE, *LOG) as measure:
        yield measure


@asynccontextmanager
async def _table(ground: Ground, groups: int, *statements: str, listener: bool = False) -> AsyncIterator[Measure]:
    postgres = await ground.postgres()
    load = Load("item", groups)
    async with postgres.database() as url:
        await postgres.execute(url, *statements, load.fill)

        async def measure() -> Figures:
            return _rate(await _measure(ground, postgres, url, load))

        if listener:
            async with program(sys.executable, "-m", LISTENER, url, "item"):
                yield measure
        else:
            yield measure


async def _measure(ground: Ground, postgres: Postgres, url: str, load: Load) -> Run:
    await postgres.checkpoint()
    script = load.write_script(ground.new_folder("pgbench"))
    return await run_pgbench(postgres, url, script, f"--time={ground.scale.size(5, 1)}")


def _rate(run: Run, lag_seconds: float = 0.0) -> dict[str, float]:
    return {"upserts_per_second": run.transactions / (run.seconds + lag_seconds)}


NUMBERED_SIDE = Side("numbered", partial(numbered, groups=GROUPS))
NUMBERED_HOT_SIDE = Side("numbered, one group", partial(numbered, groups=1))

ROWS = (
    Row(
        "write-bare",
        "numbered upserts, 32 clients, 100 groups, against the same upserts into a bare table",
        NUMBERED_SIDE,
        Side("bare table", partial(bare, groups=GROUPS)),
        "upserts_per_second",
        at_least(0.75),
    ),
    Row(
        "write-log",
        "the same against a trigger that does nothing but insert the change into a log, which nobody reads",
        NUMBERED_SIDE,
        Side("logging trigger", partial(logged, groups=GROUPS)),
        "upserts_per_second",
    ),
    Row(
        "write-naive",
        "the same against a trigger that logs, and notifies with the payload in each transaction",
        NUMBERED_SIDE,
        Side("notifying trigger", partial(naive, groups=GROUPS)),
        "upserts_per_second",
        at_least(4),
    ),
    Row(
        "write-hot-bare",
        "numbered upserts, 32 clients, all in one group, against a bare table",
        NUMBERED_HOT_SIDE,
        Side("bare table, one group", partial(bare, groups=1)),
        "upserts_per_second",
        at_least(0.65),
    ),
    Row(
        "write-hot-naive",
        "the same against the notifying trigger",
        NUMBERED_HOT_SIDE,
        Side("notifying trigger, one group", partial(naive, groups=1)),
        "upserts_per_second",
        at_least(5),
    ),
)
