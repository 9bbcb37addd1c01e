"""Steps that react, run by workers in the test's process, on a database of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

from tests.integration.step_fixtures import STREAM, StepKit, step
from tidelog.model.step import Step, reacting
from tidelog.queue.changes import ChangeFeed
from tidelog.queue.schedule import Schedule
from tidelog.queue.workers import Workers
from tidelog.runtime.runner import Runtime

WAIT_SECONDS = 60
POLL_SECONDS = 0.02
Handler = Callable[..., Any]


def event_step(handler: Handler, *topics: str, **config: Any) -> Step:
    """A step for events of `topics`; `queue` is its infrastructure's."""
    queue = config.pop("queue", None)
    infrastructure = {"infrastructure": {"queue": queue}} if queue else {}
    return Step.of_reaction(
        {"type": "event", "name": "React", "subscribes": topics, "emits": [], **infrastructure, **config}, handler
    )


def emitting(*topics: str) -> Step:
    """POST /run emits the events of its body, and then fails if it says so."""

    async def handler(req: Any, context: Any) -> Any:
        for event in req["body"]["events"]:
            await context.emit(event)
        if req["body"].get("fails"):
            raise RuntimeError("as told")
        return {"status": 200}

    return step(handler, name="Emit", emits=topics)


class WorkKit:
    """Steps, and what came of them."""

    def __init__(self, kit: StepKit, *steps: Step) -> None:
        self.kit = kit
        self.steps = steps
        self.runtime = Runtime({STREAM.name: STREAM}, kit.database, kit.settings, kit.threads, steps)

    def workers(self, *, at_once_max: int = 4) -> Workers:
        steps = reacting(self.steps)
        return Workers(steps, self.runtime, self.kit.database.connect, Schedule(steps, ZoneInfo("UTC")), at_once_max)

    @asynccontextmanager
    async def working(self, *, at_once_max: int = 4, processes: int = 1) -> AsyncIterator[Workers]:
        """As that many processes would."""
        made = [self.workers(at_once_max=at_once_max) for _ in range(processes)]
        changes = ChangeFeed(reacting(self.steps), {STREAM.name})
        for one in made:
            one.start()
        await changes.start(self.kit.url, self.kit.database.connect)
        try:
            yield made[0]
        finally:
            await changes.stop()
            for one in made:
                await one.stop()

    async def emit(self, *events: Any, status: int = 200, **body: Any) -> Any:
        """The trace id of the emitting step."""
        async with self.kit.client(*self.steps) as client:
            answer = await client.post("/run", json={"events": events, **body})
            assert answer.status_code == status, answer.text
            return answer.headers["x-trace-id"]

    async def until(self, sql: str, *parameters: Any) -> None:
        """Wait until the statement says true."""
        async with asyncio.timeout(WAIT_SECONDS):
            while (await self.kit.query(sql, *parameters)) != [True]:  # noqa: ASYNC110 - tables send no signals
                await asyncio.sleep(POLL_SECONDS)

    async def until_done(self) -> None:
        """Wait until no job is left but parked ones."""
        await self.until("select not exists (select from streams.step_job)")

    async def until_parked(self, count: int = 1) -> None:
        await self.until("select count(*) = $1 from streams.step_parked", count)
