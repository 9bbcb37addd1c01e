"""Stream steps: a durable consumer makes a job of each change, in the transaction that stores how far it came.

So each change has its job exactly once, whatever is killed when; the rest is as with any job. A job's key is the
change's group: groups go side by side, and the changes of one in their order.

There is one consumer for all processes, which take turns. Which steps there are stands in the database: whoever has its
turn makes the jobs of all, also of those that only others have.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Container, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import asyncpg

from tidelog.backoff import Backoff
from tidelog.consumer import Change, Commit, Consumer
from tidelog.logs.request import new_trace_id
from tidelog.model.reaction import STREAM_TOPIC, StreamTrigger
from tidelog.model.step import Step
from tidelog.store import jobs
from tidelog.store.consumers import register
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.reading import Only

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

# Of one consumer for all: one for each step would be two connections for each. A step that is new begins where it is.
CONSUMER = "tidelog stream steps"
COMMITS_AT_ONCE = 50  # in a transaction
TURN_SECONDS = 300.0  # that a transaction may take
# In a statement: a commit may have a million changes, and a change two megabytes.
JOBS_AT_ONCE = 500
CHARACTERS_AT_ONCE = 4 * 1024 * 1024
KEEP_SECONDS = 3600.0  # between telling the database again which steps there are
# A step that no process has had for so long is gone, says one that has been up for an hour: where all were down for
# longer, those that begin first leave the others time to begin.
FORGOTTEN_AFTER_SECONDS = 86_400.0
LOCK_TIMEOUT = "5s"  # for another's turn to end

logger = logging.getLogger("tidelog.work")

Known = list[tuple[str, StreamTrigger, float]]  # a step, which changes it is to have, and how much later


class ChangeFeed:
    """The stream steps of one process. Several processes take turns."""

    def __init__(self, steps: Iterable[Step], streams: Container[str]) -> None:
        """`streams` are those that are declared."""
        self._steps: Known = []
        for step in steps:
            if isinstance(step.reaction, StreamTrigger):
                if step.reaction.stream in streams:
                    self._steps.append((step.name, step.reaction, step.queue.delay_seconds))
                else:
                    logger.error("step %s never runs: no stream is named %r", step.name, step.reaction.stream)
        self._known: Known = []  # of all processes
        self._tasks: list[asyncio.Task[NoReturn]] = []
        self._consumer: Consumer | None = None
        self._trouble: str | None = None

    @property
    def streams(self) -> list[str]:
        """Those that the steps of this process follow."""
        return sorted({trigger.stream for _, trigger, _ in self._steps})

    @property
    def trouble(self) -> str | None:
        """What keeps changes from becoming jobs."""
        if self._consumer is None:
            return self._trouble
        return None if self._consumer.is_going_on else self._consumer.interruption or self._trouble

    async def start(self, database_url: str, connect: Connector) -> None:
        """From here on each change is handled, also if it is the first start of all."""
        if self._steps:
            with suppress(*CONNECTION_ERRORS):  # then it begins where it first gets through
                await self._keep(connect)
            self._tasks = [
                asyncio.create_task(self._run(database_url, connect)),
                asyncio.create_task(self._keep_again(connect)),
            ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []

    async def _keep(self, connect: Connector) -> None:
        """Tell the database which steps there are here."""
        connection = await connect(application_name=CONSUMER, lock_timeout=LOCK_TIMEOUT)
        try:
            await register(connection, CONSUMER, "now", Only(self.streams, None))
            rows = [
                (step, trigger.stream, trigger.group_id, trigger.item_id, delay) for step, trigger, delay in self._steps
            ]
            await connection.execute(jobs.KEEP_STREAM_STEPS, CONSUMER, *map(list, zip(*rows, strict=True)))
        finally:
            await connection.close()

    async def _forget(self, connect: Connector) -> None:
        """Those that nobody has had for long."""
        connection = await connect(application_name=CONSUMER, lock_timeout=LOCK_TIMEOUT)
        try:
            for (step,) in await connection.fetch(jobs.FORGET_STREAM_STEPS, FORGOTTEN_AFTER_SECONDS):
                logger.warning("stream step %s gets no more jobs: no process has had it for a day", step)
        finally:
            await connection.close()

    async def _keep_again(self, connect: Connector) -> NoReturn:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            with suppress(*CONNECTION_ERRORS):  # in an hour, then: they are not forgotten so soon
                await self._keep(connect)
                await self._forget(connect)

    async def _run(self, database_url: str, connect: Connector) -> NoReturn:
        backoff = Backoff()
        while True:
            try:
                await self._keep(connect)
                wanted = Only(self.streams, None)
                self._consumer = Consumer(
                    database_url, CONSUMER, self._put, wanted, "now", COMMITS_AT_ONCE, TURN_SECONDS, self._look_up
                )
                await self._consumer.run()
            except Exception as error:
                self._consumer = None
                self._trouble = f"{getattr(error, 'code', type(error).__name__)}: {error}"
                logger.error("stream steps stand still, trying again: %s", self._trouble)
            await backoff.wait()

    async def _look_up(self, connection: asyncpg.Connection[Any]) -> Only:
        """At the beginning of a turn: whom changes are for. Who is new waits until it is over."""
        rows = await connection.fetch(jobs.STREAM_STEPS)
        self._known = [
            (step, StreamTrigger(stream, group_id, item_id), delay) for step, stream, group_id, item_id, delay in rows
        ]
        return Only(sorted({trigger.stream for _, trigger, _ in self._known}), None)

    async def _put(self, commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        rows: list[tuple[str, str, str, str, float]] = []
        characters = 0
        async for change in commit:
            for step, trigger, delay in self._known:
                if trigger.takes(change.stream, change.group_id, change.id):
                    text = json.dumps(input_of(change, commit), ensure_ascii=False)
                    rows.append((step, change.group_id, text, new_trace_id(), delay))
                    characters += len(text)
            if len(rows) >= JOBS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
                await _insert(connection, rows)
                rows, characters = [], 0
        if rows:
            await _insert(connection, rows)


async def _insert(connection: asyncpg.Connection[Any], rows: list[tuple[str, str, str, str, float]]) -> None:
    await connection.execute(jobs.PUT_CHANGES, STREAM_TOPIC, *map(list, zip(*rows, strict=True)))


def input_of(change: Change, commit: Commit) -> dict[str, Any]:
    """What a handler gets, in Motia's shape; of a delete it is the item as it was."""
    return {
        "type": "stream",
        "timestamp": int(commit.at.timestamp() * 1000),
        "streamName": change.stream,
        "groupId": change.group_id,
        "id": change.id,
        "event": {"type": change.op, "data": change.data},
    }
