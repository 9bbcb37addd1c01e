"""One history: servers, writers, subscribers and faults for some seconds, and all that was recorded."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from random import Random

import asyncpg

from tests.faults.chaos import Chaos
from tests.faults.collect import EventCollector, collect
from tests.faults.fleet import STEPS, Fleet, make_fleet
from tests.faults.hindrances import Hindrances, open_transactions, set_limits
from tests.faults.history import Channel, History
from tests.faults.plan import GROUPS, IDS, STREAMS
from tests.faults.postgres import OwnPostgres
from tests.faults.recorder import MotiaRecorder, Recorder
from tests.faults.recorder_tidelog import TidelogRecorder
from tests.faults.sql_writer import SqlWriter, write_final
from tests.faults.step_writer import StepWriter
from tests.faults.variants import Variant
from tests.harness import Databases, migrate

SERVERS = 3
PARTITIONS = 50  # of the log, at first
PARTITION_XIDS = 200  # transactions for each of them: a few seconds
SQL_WRITERS = 5
STEP_WRITERS = 2
MOTIA_SUBSCRIBERS = 7
TIDELOG_SUBSCRIBERS = 6
WRITER_PAUSE_SECONDS = 0.03  # on average; more would measure the machine, not the feed
NARROW_SETTINGS = {"TIDELOG_SOCKET_BUFFER_BYTES_MAX": "4096"}
# How much must have happened, or the run proves nothing; on a slow machine that takes longer than a plan's seconds.
COMMITS_MIN = 50
MORE_SECONDS_MAX = 90
# What is left at the end: the feed catches up, subscribers reconnect. Past it, somebody is stuck.
END_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Plan:
    """Which history to run, and for how long."""

    seed: int
    seconds: float
    variant: Variant


async def run_history(server_url: str, plan: Plan, postgres: OwnPostgres | None = None) -> History:
    """Run and record, in a database that is made for it and dropped. The same seed draws the same plans.

    Faults that kill Postgres need one of the suite's own, whose URL `server_url` then is.
    """
    databases = Databases(server_url)
    url = await databases.create()
    try:
        await asyncio.to_thread(migrate, url, STEPS)
        await cut_log(url)
        if plan.variant.is_hindered:
            await set_limits(url)
        settings = NARROW_SETTINGS if plan.variant.is_narrow else {}
        async with AsyncExitStack() as stack:
            fleet = await stack.enter_async_context(
                make_fleet(server_url, url, SERVERS, settings, is_narrow=plan.variant.is_narrow)
            )
            run = _Run(fleet, Chaos(fleet, postgres, plan.variant.faults, _random(plan, "chaos")), plan)
            if plan.variant.is_hindered:
                run.hindrances = await stack.enter_async_context(open_transactions(server_url, url))
            await run.perform()
            return run.history
    finally:
        await databases.drop(url)


async def cut_log(url: str) -> None:
    """Let the log go through many partitions in the few minutes of a run: kills hit the moments between them, too."""
    connection = await asyncpg.connect(url)
    try:
        begin = await connection.fetchval("select pg_current_xact_id()") + 2 * PARTITIONS
        for n in range(PARTITIONS):
            await connection.execute("select streams.cut_partition($1)", begin + n * PARTITION_XIDS)
    finally:
        await connection.close()


class _Run:
    """Who takes part in a run, and what they record."""

    def __init__(self, fleet: Fleet, chaos: Chaos, plan: Plan) -> None:
        self.history = History(plan.seed, plan.seconds)
        self.history.may_lose_events = any(
            fault in plan.variant.faults for fault in ("kill postmaster", "kill backend")
        )
        self.hindrances: Hindrances | None = None
        self._plan = plan
        self._fleet = fleet
        self._chaos = chaos
        self._collector = EventCollector(fleet.database_url)
        self._writers: list[SqlWriter | StepWriter] = [
            *(self._sql_writer(f"sql{n}") for n in range(SQL_WRITERS)),
            *(self._step_writer(f"step{n}") for n in range(STEP_WRITERS)),
        ]
        self._recorders: list[Recorder] = [
            *(self._recorder(MotiaRecorder, f"motia{n}", n) for n in range(MOTIA_SUBSCRIBERS)),
            *(self._recorder(TidelogRecorder, f"tidelog{n}", n) for n in range(TIDELOG_SUBSCRIBERS)),
        ]

    async def perform(self) -> None:
        """Everybody at once for the history's seconds; then the end, and what the database says."""
        self.history.started_at = time.monotonic_ns()
        (row,) = await self._fleet.ask("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
        self.history.started_at_us = row[0]
        working, watching = asyncio.Event(), asyncio.Event()
        work = [asyncio.create_task(worker.run(working)) for worker in (*self._writers, self._chaos)]
        watch = [asyncio.create_task(recorder.run()) for recorder in self._recorders]
        watch.append(asyncio.create_task(self._collector.run(watching)))
        try:
            # Somebody who ends before his time has failed.
            await asyncio.wait(work, timeout=self._plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
            for _ in range(MORE_SECONDS_MAX):
                if self._is_enough() or any(task.done() for task in work):
                    break
                await asyncio.wait(work, timeout=1, return_when=asyncio.FIRST_EXCEPTION)
            working.set()
            await asyncio.gather(*work)
            await self._end()
            watching.set()
        finally:
            unfinished = [task for task in (*work, *watch) if not task.done()]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        for task in watch:
            if task not in unfinished:
                task.result()
        await self._collect()

    def _is_enough(self) -> bool:
        """Whether faults, commits and frames will satisfy who asks whether anything happened."""
        commits = sum(done.outcome == "committed" for writer in self._writers for done in writer.transactions)
        frames = sum(recorder.subscriber.frames for recorder in self._recorders)
        return bool(self._chaos.done) and commits > 2 * COMMITS_MIN and frames > 2 * commits

    async def _end(self) -> None:
        """One more commit, and a second one that shows what comes after it; wait until every subscriber has both."""
        keys = frozenset((stream, group, id) for stream in STREAMS for group in GROUPS for id in IDS)
        for recorder in self._recorders:
            recorder.end_at("the end.2", keys)
        if self.hindrances is not None:
            self.history.transactions.append(await self.hindrances.end())
        for stamp in ("the end.1", "the end.2"):
            self.history.transactions.append(await write_final(self._fleet.database_url, stamp))
        with suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_SECONDS):
                await asyncio.gather(*(recorder.finished.wait() for recorder in self._recorders))
        for recorder in self._recorders:
            if not recorder.finished.is_set():
                self.history.trouble.append(f"{recorder.subscriber.name} was stuck: the last commit did not come")

    async def _collect(self) -> None:
        history = self.history
        await collect(history, self._fleet.database_url, self._collector)
        history.faults = self._chaos.done
        history.transactions += [done for writer in self._writers for done in writer.transactions]
        history.trouble += [trouble for writer in self._writers for trouble in writer.trouble]
        history.trouble += self._fleet.trouble()
        history.logs = {process.name: process.log() for process in self._fleet.processes}
        history.subscribers = [recorder.subscriber for recorder in self._recorders]

    def _sql_writer(self, name: str) -> SqlWriter:
        return SqlWriter(name, self._fleet.database_url, _random(self._plan, name), pause_seconds=WRITER_PAUSE_SECONDS)

    def _step_writer(self, name: str) -> StepWriter:
        return StepWriter(name, self._fleet.places, _random(self._plan, name), pause_seconds=WRITER_PAUSE_SECONDS)

    def _recorder(self, kind: type[Recorder], name: str, number: int) -> Recorder:
        """Every third one stays where it is, as long as it can."""
        random = _random(self._plan, name)
        is_lazy = self._plan.variant.is_narrow and number % 2 == 1
        return kind(name, _channels(random), self._fleet.places, random, is_restless=number % 3 > 0, is_lazy=is_lazy)


def _random(plan: Plan, name: str) -> Random:
    return Random(f"{plan.seed}/{name}")  # noqa: S311 - a plan, not a secret


def _channels(random: Random) -> list[Channel]:
    """Some groups and some items, often items of the same groups."""
    groups = [Channel(stream, group, None) for stream in STREAMS for group in GROUPS]
    chosen = random.sample(groups, random.choice((1, 2, 4, 8)))
    items = [Channel(*random.choice(groups)[:2], random.choice(IDS)) for _ in range(random.choice((0, 1, 4)))]
    return list(dict.fromkeys(chosen + items))
