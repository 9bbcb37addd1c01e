"""Crowds of subscribers in a process of their own: what a side sends to, and what it is measured at."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.programs import Program, program
from tests.benchmarks.row import CannotRunError

V1 = "tidelog.v1"
GREETED = {None: '"type":"sync"', V1: '"type":"live"'}  # what a subscriber knows by that it has its snapshot


@dataclass(frozen=True)
class Arrival:
    """When the first and the last message came, and the numbers of the last ones: how many sockets ended on which."""

    first_ns: int
    last_ns: int
    lasts: Mapping[int, int]
    size_bytes: int
    numbers: Sequence[int] = field(default=(), repr=False)  # of each message, and when it came; if recorded
    times_ns: Sequence[int] = field(default=(), repr=False)


class Crowd:
    """Connections that are open, and were greeted with `items` items in `greeting_seconds`."""

    def __init__(self, running: Program, sockets: int) -> None:
        self._running = running
        self.sockets = sockets
        self.items = 0
        self.greeting_seconds = 0.0

    @property
    def pid(self) -> int:
        return self._running.pid

    async def open(self, **how: Any) -> None:
        answer = await self._running.ask(do="open", **how)
        if "not_spoken" in answer:
            raise CannotRunError(answer["not_spoken"])
        self.items = answer["items"]
        self.greeting_seconds = (answer["greeted_ns"] - answer["hello_ns"]) / 1e9

    async def check(self) -> None:
        """Raise RuntimeError unless every socket is still open."""
        answer = await self._running.ask(do="count")
        if answer["sockets"] != self.sockets:
            raise RuntimeError(f"{answer['sockets']} sockets are open, not {self.sockets}")

    async def expect(self, messages: int, *, record: bool = False, at_once: bool = False) -> None:
        """From now on each socket shall get so many. `arrival` tells; an extra message fails the next `expect`.

        Messages are read at once if their arrivals are recorded, or if asked to; else now and then, several together.
        """
        await self._running.ask(do="expect", messages=messages, record=record, at_once=at_once)

    async def arrival(self) -> Arrival:
        """Wait until every socket has got all of them."""
        answer = await self._running.answer()
        return Arrival(**answer | {"lasts": dict(answer["lasts"])})


@asynccontextmanager
async def crowd(
    port: int, groups: Iterable[str], *, dialect: str | None = None, joins: bool = True, **since: Any
) -> AsyncIterator[Crowd]:
    """A socket for each of `groups`, at the path /<group>.

    If it `joins` it subscribes to the group in the dialect (None: Motia's), with what `since` says in addition, and
    waits for its snapshot. Raises CannotRunError if the server does not speak the dialect.
    """
    wanted = list(groups)
    async with program(sys.executable, "-m", "tests.benchmarks.processes.crowd") as running:
        people = Crowd(running, len(wanted))
        await people.open(
            port=port,
            paths=[f"/{group}" for group in wanted],
            hellos=[_hello(group, dialect, since) for group in wanted],
            until=GREETED[dialect] if joins else None,
            protocol=dialect if joins else None,
        )
        yield people


def _hello(group: str, dialect: str | None, since: Mapping[str, Any]) -> str:
    if dialect == V1:
        return json.dumps({"type": "subscribe", "id": "s", "stream": "bench", "group": group, **since})
    return json.dumps({"type": "join", "data": {"streamName": "bench", "groupId": group, "subscriptionId": "s"}})
