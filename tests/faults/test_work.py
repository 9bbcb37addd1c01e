"""Events whose workers, and whose Postgres, are killed at random moments."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.faults.postgres import OwnPostgres, own_postgres
from tests.faults.sql_writer import CONNECTION_LOST
from tests.harness import ROOT, migrate, server_environment

STEPS = Path(__file__).parent / "work_steps"
SEEDS = 910  # each makes ten events: 10,010 in all, with itself
KILLS = 9  # of which each third is Postgres's
WAIT_SECONDS = 240
POLL_SECONDS = 0.05
TABLE = "create table effects (ordinal bigserial primary key, kind text not null, number int not null)"
PUT = (
    "insert into streams.step_job (step, topic, input, trace_id) "
    "select 'Seed', 'seed', jsonb_build_object('seed', n), 'test' from generate_series(0, $1 - 1) n"
)


def start_worker(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tidelog.cli", "work"],
        cwd=ROOT,
        env=server_environment(url, STEPS, TIDELOG_POOL_SIZE_MAX="5"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def kill(worker: subprocess.Popen[bytes]) -> None:
    """kill -9"""
    worker.kill()
    worker.wait()


async def ask(postgres: OwnPostgres, sql: str, *parameters: Any) -> list[Any]:
    """On a connection of its own, as Postgres may just have been killed."""
    while True:
        try:
            connection = await asyncpg.connect(postgres.url)
            try:
                return list(await connection.fetch(sql, *parameters))
            finally:
                await connection.close()
        except CONNECTION_LOST:
            await asyncio.sleep(POLL_SECONDS)


async def until(postgres: OwnPostgres, sql: str, *parameters: Any) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not (await ask(postgres, sql, *parameters))[0][0]:  # noqa: ASYNC110 - tables send no signals
            await asyncio.sleep(POLL_SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_each_event_has_its_effect_once_whatever_is_killed_when(seed: int) -> None:
    """Two workers and Postgres, killed with -9 again and again: nothing lost, nothing twice, groups in order."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    async with own_postgres() as postgres:
        await asyncio.to_thread(migrate, postgres.url, STEPS)
        for sql in (TABLE, PUT):
            await ask(postgres, sql, *([SEEDS] if sql is PUT else []))
        all_effects = SEEDS * 11
        workers = [start_worker(postgres.url) for _ in range(2)]
        try:
            for round in range(KILLS):
                await until(postgres, "select count(*) >= $1 from effects", all_effects * round // (KILLS + 1))
                await asyncio.sleep(rng.uniform(0, 0.3))  # somewhere in what they do
                if round % 3 == 2:
                    await postgres.end(signal.SIGKILL)
                else:
                    kill(workers.pop(rng.randrange(2)))
                    workers.append(start_worker(postgres.url))
            await until(postgres, "select not exists (select from streams.step_job)")
        finally:
            for worker in workers:
                kill(worker)
        assert await ask(postgres, "select * from streams.step_parked") == []
        for kind, count in (("seed", SEEDS), ("plain", SEEDS * 5), ("kept", SEEDS * 5)):
            numbers = await ask(postgres, "select number from effects where kind = $1 order by number", kind)
            assert [number for (number,) in numbers] == list(range(count)), kind
        # Seeds are handled side by side: whose events come first is open, and in what order each one's come is not.
        kept = await ask(postgres, "select number from effects where kind = 'kept' order by ordinal")
        for one in range(SEEDS):
            numbers = [number for (number,) in kept if number // 5 == one]
            assert numbers == sorted(numbers)
