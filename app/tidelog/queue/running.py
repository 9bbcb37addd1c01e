"""One job's run: what its handler is given, and what is written of it in the end. Knows nothing of waiting."""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tidelog.errors import ClaimLostError, InputInvalidError, StepTimedOutError
from tidelog.json_text import parse
from tidelog.logs.request import CurrentRequest, current_request
from tidelog.model.reaction import EventTrigger
from tidelog.model.step import Step
from tidelog.runtime.runner import Runtime, StepRunner
from tidelog.store import jobs
from tidelog.store.asking import Lend
from tidelog.store.failure import in_a_line, is_away, is_busy, is_conflict
from tidelog.store.jobs import Job

BACKOFF_FIRST_SECONDS = 1.0  # before the first retry; twice that before the next
BACKOFF_MAX_SECONDS = 300.0
# After what is no fault of the job: a deadlock, a database that is away. It is not counted.
PAUSE_SECONDS = 1.0
# Claims in a row whose workers died. One of a job that others have killed may be, ten of them are its own doing.
UNENDED_MAX = 10
ERROR_LENGTH_MAX = 1000
TRACEBACK_LENGTH_MAX = 16_384  # its end, where it stood

logger = logging.getLogger("tidelog.work")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be written of a job that was not done: `sql` of store/jobs.py, and its parameters."""

    sql: str
    parameters: tuple[Any, ...]


class JobInvocation:
    """A job as a step's invocation. See Invocation, which it is."""

    __slots__ = ("_job", "_step", "auth", "ending", "given_up", "trace_id")

    def __init__(self, step: Step, job: Job) -> None:
        self.auth: Any = None
        self.trace_id = job.trace_id
        self.ending: Callable[[Lend], Awaitable[None]] | None = self._end
        self.given_up: StepTimedOutError | None = None
        self._step = step
        self._job = job

    def given(self) -> Any:
        """The input, as its schema makes it. Raises InputInvalidError."""
        if self._step.context_first:
            return None
        value = parse(self._job.input)
        trigger = self._step.reaction
        if not isinstance(trigger, EventTrigger) or trigger.input_schema is None:
            return value
        made, violations = trigger.input_schema.read(value)
        if violations:
            first = violations[0]
            raise InputInvalidError(
                f"the data of event {self._job.topic} does not fit the step's `input`: {first.path or 'it'}: "
                f"{first.message}"
            )
        return made

    def accept(self, returned: Any) -> bool:
        """Whatever a handler returns, nobody waits for it."""
        return True

    def committed(self, transaction: int | None) -> None:
        """Nobody waits for that either."""

    async def until_gone(self) -> None:
        await asyncio.get_running_loop().create_future()

    def has_gone(self) -> bool:
        return False

    async def give_up(self, error: StepTimedOutError) -> None:
        self.given_up = error

    async def _end(self, lend: Lend) -> None:
        await jobs.end(lend, self._job)


class JobRunner:
    """Runs the jobs of one step."""

    def __init__(self, step: Step, runtime: Runtime) -> None:
        self.step = step
        self._runner = StepRunner(step, runtime)

    async def run(self, job: Job) -> Outcome | None:
        """What is to be written of it; None if it is done, or not ours any more. Raises CancelledError only."""
        where = self._where(job)
        if job.unended > UNENDED_MAX:
            error = f"workers_died: {job.unended - 1} workers in a row ended before this job did"
            logger.error("%s: parked: %s", where, error)
            return Outcome(jobs.PARK, (job.id, job.claim, error, ""))
        current_request.set(CurrentRequest(self.step.name, job.trace_id))
        invocation = JobInvocation(self.step, job)
        try:
            if await self._runner.run(invocation) is None:
                raise invocation.given_up or RuntimeError("the handler was given up")
        except ClaimLostError as error:
            logger.warning("%s: %s: %s", where, error.code, error)
            return None
        except Exception as error:
            return self.outcome_of(error, job)
        return None

    def outcome_of(self, error: Exception, job: Job) -> Outcome:
        """What is to be written of a job whose handler raised `error`."""
        where = self._where(job)
        told = f"{type(error).__name__}: {in_a_line(error)}"
        if is_conflict(error) or is_busy(error) or is_away(error):
            logger.info("%s: tried again, as it is no fault of its own: %s", where, told)
            return Outcome(jobs.RELEASE, (job.id, job.claim, PAUSE_SECONDS * random.uniform(0.5, 1.5)))  # noqa: S311
        attempt, attempts_max = job.attempts + 1, self.step.queue.retries_max + 1
        if attempt >= attempts_max or isinstance(error, InputInvalidError):
            logger.error("%s: parked after attempt %d: %s", where, attempt, told, exc_info=error)
            trace = _storable("".join(traceback.format_exception(error)))[-TRACEBACK_LENGTH_MAX:]
            return Outcome(jobs.PARK, (job.id, job.claim, _storable(told)[:ERROR_LENGTH_MAX], trace))
        pause = backoff_seconds(attempt)
        logger.warning("%s: attempt %d of %d failed, again in %.1f s: %s", where, attempt, attempts_max, pause, told)
        return Outcome(jobs.RETRY, (job.id, job.claim, _storable(told)[:ERROR_LENGTH_MAX], pause))

    def _where(self, job: Job) -> str:
        return f"step {self.step.name}, job {job.id}, trace {job.trace_id}"


def backoff_seconds(attempt: int) -> float:
    """After this attempt. Jitter: jobs that failed together, as something was down, shall not come back together."""
    longest = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** (attempt - 1))
    return float(longest * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


def _storable(text: str) -> str:
    """Without what a text of Postgres can't hold."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
