"""Our server whose reader is fed from memory instead of from Postgres; everything else is as it always is.

`uvicorn tests.benchmarks.processes.fed_app:app`. It takes commands on the Unix socket BENCH_CONTROL, the same lines
as ws/server.js.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from types import SimpleNamespace
from typing import Any

from tests.benchmarks.text import item
from tidelog import composition
from tidelog.asgi import create_app
from tidelog.feed.broadcaster import Broadcaster
from tidelog.model.change import Change, Commit, GroupCommit, Topic
from tidelog.settings import Settings

STREAM = "bench"
COMMIT_MS = 0.01  # the least time between two commits


class FedReader:
    """Stands in for `tidelog.feed.reader.Reader`: publishes what it is told to."""

    def __init__(self, _connect: object, broadcaster: Broadcaster, *_: object) -> None:
        self._broadcaster = broadcaster
        self.started = asyncio.Event()
        self.trouble: str | None = None
        self.watch = SimpleNamespace(numbering=None, notify_queue=None)

    async def run(self) -> None:
        self._number, self._started_ms = 0, time.time() * 1000
        self._broadcaster.start(0, self._started_ms)
        server = await asyncio.start_unix_server(self._serve, os.environ["BENCH_CONTROL"])
        self.started.set()
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            started_ns = await self._publish(**json.loads(line))
            writer.write(json.dumps({"started_ns": started_ns}).encode() + b"\n")
        writer.close()

    async def _publish(self, *, updates: int, first: int, groups: list[str], per_turn: int, **_: Any) -> int:
        started_ns = time.perf_counter_ns()
        done = 0
        while done < updates:
            numbers = range(done, done + min(per_turn, updates - done))
            self._broadcaster.publish([self._commit(groups[n % len(groups)], first + n) for n in numbers])
            done = numbers.stop
            self._broadcaster.settle()
            await asyncio.sleep(0)
        return started_ns

    def _commit(self, group: str, n: int) -> Commit:
        self._number += 1
        number, at_ms = self._number, self._started_ms + self._number * COMMIT_MS
        change = Change(number, "update", "i1", number, item(n))
        part = GroupCommit([change], [])
        return Commit(number, number, at_ms, {Topic(STREAM, group): part})


composition.Reader = FedReader  # type: ignore[attr-defined, assignment]
app = create_app(Settings())
