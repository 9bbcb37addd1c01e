"""Stream steps: a durable consumer makes a job of each change, in the transaction that stores how far it came.

So each change has its job exactly once, whatever is killed when; the rest is as with any job. A job's key is the
change's group: groups go side by side, and the changes of one in their order.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Container, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.backoff import Backoff
from tidelog.consumer import Change, Commit, consume
from tidelog.logs.request import new_trace_id
from tidelog.model.reaction import STREAM_TOPIC, StreamTrigger
from tidelog.model.step import Step
from tidelog.store.consumers import register
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.jobs import PUT_CHANGES
from tidelog.store.reading import Only

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

# Of one consumer for all: one for each step would be two connections for each. A step that is new begins where it is.
CONSUMER = "tidelog stream steps"
COMMITS_AT_ONCE = 50  # in a transaction
JOBS_AT_ONCE = 500  # in a statement; a commit may have a million changes

logger = logging.getLogger("tidelog.work")


class ChangeFeed:
    """The stream steps of one process. Several processes take turns."""

    def __init__(self, steps: Iterable[Step], streams: Container[str]) -> None:
        """`streams` are those that are declared."""
        self._steps: list[tuple[Step, StreamTrigger]] = []
        for step in steps:
            if isinstance(step.reaction, StreamTrigger):
                if step.reaction.stream in streams:
                    self._steps.append((step, step.reaction))
                else:
                    logger.error("step %s never runs: no stream is named %r", step.name, step.reaction.stream)
        self._task: asyncio.Task[None] | None = None
        self.trouble: str | None = None  # what keeps changes from becoming jobs

    @property
    def streams(self) -> list[str]:
        """Those that are followed."""
        return sorted({trigger.stream for _, trigger in self._steps})

    async def start(self, database_url: str, connect: Connector) -> None:
        """From here on each change is handled, also if it is the first start of all."""
        if self._steps:
            with suppress(*CONNECTION_ERRORS):  # then it begins where the consumer first gets through
                connection = await connect(application_name=CONSUMER)
                try:
                    await register(connection, CONSUMER, "now", Only(self.streams, None))
                finally:
                    await connection.close()
            self._task = asyncio.create_task(self._run(database_url))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, database_url: str) -> None:
        backoff = Backoff()
        while True:
            try:
                await consume(
                    database_url, CONSUMER, self._put, streams=self.streams, start="now", batch_max=COMMITS_AT_ONCE
                )
            except Exception as error:
                self.trouble = f"{getattr(error, 'code', type(error).__name__)}: {error}"
                logger.error("stream steps stand still, trying again: %s", self.trouble)
            await backoff.wait()

    async def _put(self, commit: Commit, connection: asyncpg.Connection[Any]) -> None:
        rows: list[tuple[str, str, str, str, float]] = []
        async for change in commit:
            for step, trigger in self._steps:
                if trigger.takes(change.stream, change.group_id, change.id):
                    text = json.dumps(input_of(change, commit))
                    rows.append((step.name, change.group_id, text, new_trace_id(), step.queue.delay_seconds))
            if len(rows) >= JOBS_AT_ONCE:
                await _insert(connection, rows)
                rows = []
        if rows:
            await _insert(connection, rows)
        self.trouble = None


async def _insert(connection: asyncpg.Connection[Any], rows: list[tuple[str, str, str, str, float]]) -> None:
    await connection.execute(PUT_CHANGES, STREAM_TOPIC, *map(list, zip(*rows, strict=True)))


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
