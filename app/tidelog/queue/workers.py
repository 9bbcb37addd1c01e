"""A process's workers: claim jobs for as many as may run at a time, run them, write down what came of them.

All that is asked of the queue goes over one connection of theirs, by one task; handlers have the steps' connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.backoff import Backoff
from tidelog.model.step import Step
from tidelog.queue.bell import Bell, State
from tidelog.queue.running import JobRunner, Outcome
from tidelog.queue.schedule import Schedule
from tidelog.runtime.runner import Runtime
from tidelog.store import jobs
from tidelog.store.deadline import deadline
from tidelog.store.failure import CONNECTION_ERRORS, is_passing
from tidelog.store.jobs import Job, Wanted
from tidelog.store.log import FEED_SETTINGS, LIFT_TRANSACTION_TIMEOUT

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

# None of what is written here is worth waiting for a flush: what is lost in a crash of the server is a claim, or that
# an attempt failed, and the job is run again. What a handler does is committed as a step's work is.
SETTINGS = {**FEED_SETTINGS, "synchronous_commit": "off"}
NAME = "tidelog work"
ANSWER_TIMEOUT_SECONDS = 5.0
CLOSE_TIMEOUT_SECONDS = 2.0

LEASE_SECONDS = 15.0  # what a killed worker had is due again after it, and what one has that the database is away from
RENEW_SECONDS = 4.0  # two looks may fail
STEP_SHARE = 0.75  # of what may run at a time: one step's jobs leave room for the others'
# Behind the bell: jobs that become due (delays, retries), those of dead workers, and a lost ring. Latency, never data.
SLOW_POLL_SECONDS = 1.0
CLOCK_LOOK_SECONDS = 10.0  # at the latest: between looks for ticks of cron steps
RESUME_SECONDS = 10.0  # between looks for jobs that were put aside behind a parked one that is gone
# Awake: the pause grows from here while nothing comes and an emitter's long transaction keeps the bell's lock.
PAUSE_MIN_SECONDS = 0.001
PAUSE_MAX_SECONDS = 0.025
RINGS_BEFORE_AWAKE = 3  # rings in a row, after which looking is cheaper for everybody than ringing

STOP_SECONDS = 5.0  # that running handlers have when the process ends; as long as requests have
CANCELLED_SECONDS = 2.0  # more for those that then clean up

logger = logging.getLogger("tidelog.work")


class Workers:
    """Up to `at_once_max` jobs of `steps` at a time. Nothing is connected before `start`."""

    def __init__(
        self, steps: Iterable[Step], runtime: Runtime, connect: Connector, schedule: Schedule, at_once_max: int
    ) -> None:
        self._runners = {step.name: JobRunner(step, runtime) for step in steps}
        self._connect = connect
        self._schedule = schedule
        self._at_once_max = at_once_max
        self._step_max = max(1, int(at_once_max * STEP_SHARE))
        self._running: dict[asyncio.Task[None], Job] = {}
        self._outcomes: list[Outcome] = []
        self._after_keys: dict[str, str] = {}
        self._woken = asyncio.Event()
        self._was_rung = self._is_stopping = False
        self._renew_at = self._tick_at = self._resume_at = 0.0
        self._backoff = Backoff()
        self._task: asyncio.Task[None] | None = None
        self.trouble: str | None = None  # what keeps jobs from being run

    def start(self) -> None:
        if self._runners and self._at_once_max:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Begin nothing more; give what runs STOP_SECONDS; leave the rest to others, at once."""
        self._is_stopping = True
        if self._task is None:
            return
        self._woken.set()
        if self._running:
            await asyncio.wait(self._running, timeout=STOP_SECONDS)
        left = dict(self._running)
        for task, job in left.items():
            task.cancel()
            self._outcomes.append(Outcome(jobs.RELEASE, (job.id, job.claim, 0.0)))
        if left:
            await asyncio.wait(left, timeout=CANCELLED_SECONDS)
        self._woken.set()
        # The task ends by itself, when it has written the last outcomes; from a database that is away it is called.
        await asyncio.wait([self._task], timeout=ANSWER_TIMEOUT_SECONDS)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def steps(self) -> list[str]:
        """Whose jobs are run here; none if nothing runs."""
        return list(self._runners) if self._task is not None else []

    @property
    def is_idle(self) -> bool:
        return not self._running and not self._outcomes

    async def _run(self) -> None:
        while not self._is_stopping:
            try:
                await self._run_on_one_connection()
                return
            except CONNECTION_ERRORS as error:
                self.trouble = f"{type(error).__name__}: {error}"
                logger.warning("jobs can't be claimed, trying again: %s", self.trouble)
            except Exception as error:  # a bug of ours must not end all work, nor go unseen
                self.trouble = f"{type(error).__name__}: {error}"
                logger.exception("the workers failed, trying again")
            await self._backoff.wait()

    async def _run_on_one_connection(self) -> None:
        connection = await self._connect(**SETTINGS, application_name=NAME)
        try:
            bell = Bell(connection, self._note_ring)
            connection.add_termination_listener(lambda _: self._woken.set())
            with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                await connection.execute(LIFT_TRANSACTION_TIMEOUT)
                await bell.open()
                await self._schedule.register(connection)
            self.trouble = None
            self._tick_at = self._resume_at = 0.0
            await self._work(connection, bell)
        finally:
            with contextlib.suppress(*CONNECTION_ERRORS):
                await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)

    async def _work(self, connection: asyncpg.Connection[Any], bell: Bell) -> None:
        """Until the process ends, or the connection."""
        pause, rings = PAUSE_MIN_SECONDS, 0
        while True:
            # Be rung for, clear, look, wait: in this order, or a ring is lost.
            was_rung, self._was_rung = self._was_rung, False
            self._woken.clear()
            with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                await self._write_outcomes(connection)
                if self._is_stopping:
                    if self.is_idle:
                        return
                    claimed, has_room = False, False
                else:
                    await self._look_at_the_clock(connection)
                    claimed, has_room = await self._claim(connection), self._room > 0
                self._backoff.reset()
                if claimed:
                    pause = PAUSE_MIN_SECONDS
                    rings += was_rung
                    if rings >= RINGS_BEFORE_AWAKE and bell.state is State.ARMED:
                        await bell.disarm()
                if claimed and has_room:
                    continue
                if not has_room:  # whoever emits need not ring: an end wakes
                    await bell.disarm()
                elif bell.state not in (State.ARMED, State.THEIRS):
                    state = await bell.arm()
                    if state is State.BUSY:
                        bell.forget()
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, PAUSE_MAX_SECONDS)
                    rings = 0
                    continue
            if was_rung and not claimed:  # others were faster, or it is a flood of rings: answer at this pace
                await asyncio.sleep(PAUSE_MAX_SECONDS)
            await self._wait()
            bell.forget()

    async def _wait(self) -> None:
        now = asyncio.get_running_loop().time()
        until = min(now + SLOW_POLL_SECONDS, self._tick_at, self._renew_at if self._running else math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._woken.wait()

    def _note_ring(self) -> None:
        self._was_rung = True
        self._woken.set()

    async def _write_outcomes(self, connection: asyncpg.Connection[Any]) -> None:
        while self._outcomes:
            outcome = self._outcomes[0]
            try:
                await connection.execute(outcome.sql, *outcome.parameters)
            except asyncpg.PostgresError as error:
                if is_passing(error):
                    raise  # it is written by the next connection
                logger.error("what became of a job can't be written; it is run again when its lease is over: %s", error)
            del self._outcomes[0]

    async def _look_at_the_clock(self, connection: asyncpg.Connection[Any]) -> None:
        now = asyncio.get_running_loop().time()
        if self._running and now >= self._renew_at:
            held = [(job.id, job.claim) for job in self._running.values()]
            await connection.execute(jobs.RENEW, *map(list, zip(*held, strict=True)), LEASE_SECONDS)
            self._renew_at = now + RENEW_SECONDS
        if now >= self._resume_at:
            self._resume_at = now + RESUME_SECONDS
            stopping = [name for name, runner in self._runners.items() if runner.step.queue.stops_when_parked]
            await connection.execute(jobs.RESUME, list(self._runners), stopping)
        if now >= self._tick_at:
            # Not much later, however long it is to the next tick: the clock may be set.
            self._tick_at = now + min(await self._schedule.fire(connection), CLOCK_LOOK_SECONDS)

    @property
    def _room(self) -> int:
        return self._at_once_max - len(self._running)

    async def _claim(self, connection: asyncpg.Connection[Any]) -> bool:
        """Claim for what has room, and begin it; whether there was anything, or may be behind what was put aside."""
        if self._room <= 0:
            return False
        wanted = self._wanted()
        if not wanted:
            return False
        if not self._running:
            self._renew_at = asyncio.get_running_loop().time() + RENEW_SECONDS
        claimed = await jobs.claim(connection, wanted, self._room, LEASE_SECONDS)
        self._after_keys |= claimed.after_keys
        for job in claimed.jobs:
            task = asyncio.create_task(self._run_job(job))
            self._running[task] = job
            task.add_done_callback(self._note_end)
        if claimed.has_more and not claimed.jobs:
            await asyncio.sleep(PAUSE_MAX_SECONDS)
        return bool(claimed.jobs) or claimed.has_more

    def _wanted(self) -> list[Wanted]:
        running = [job.step for job in self._running.values()]
        wanted = []
        for name, runner in self._runners.items():
            room = min(self._room, self._step_max - running.count(name))
            queue = runner.step.queue
            if room > 0:
                after_key = self._after_keys.get(name)
                wanted.append(Wanted(name, room, queue.concurrency, queue.stops_when_parked, after_key))
        random.shuffle(wanted)  # who is first gets what can't be divided
        return wanted

    async def _run_job(self, job: Job) -> None:
        runner = self._runners[job.step]
        try:
            outcome = await runner.run(job)
        except asyncio.CancelledError:
            if self._is_stopping:
                raise
            outcome = runner.outcome_of(RuntimeError("the handler cancelled its own task"), job)
        if outcome is not None:
            self._outcomes.append(outcome)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a job's run failed; it is another's when its lease is over", exc_info=error)
        self._woken.set()
