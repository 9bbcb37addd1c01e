"""What all examples of the state machine share: servers, connections for SQL, an event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg

from tests.faults.model import Key
from tests.harness import Server, connect_sql

OPEN_MAX = 2
NUMBER_TIMEOUT_SECONDS = 60
SNAPSHOT_LOOKS = 10

Answer = TypeVar("Answer")


@dataclass
class World:
    """What all examples share: servers, connections for SQL, and a loop that runs only while a rule does."""

    loop: asyncio.AbstractEventLoop
    servers: list[Server]
    sql: asyncpg.Connection[Any]
    holder: asyncpg.Connection[Any]  # keeps the sequencer from giving numbers, for a moment
    openers: list[asyncpg.Connection[Any]]  # each for one transaction that is left open
    problem: Exception | None = None  # the first that was found
    serial: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._head_moved = asyncio.Event()

    @classmethod
    async def begin(cls, loop: asyncio.AbstractEventLoop, servers: list[Server]) -> World:
        url = servers[0].database_url
        openers = [await connect_sql(url) for _ in range(OPEN_MAX)]
        world = cls(loop, servers, await connect_sql(url), await connect_sql(url), openers)
        await world.sql.add_listener("tidelog_head", lambda *_: world._head_moved.set())
        return world

    async def end(self) -> None:
        for connection in (self.sql, self.holder, *self.openers):
            await connection.close()

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return self.loop.run_until_complete(work)
        except Exception as error:
            self.problem = self.problem or error
            raise

    async def numbers(self, xids: list[int]) -> dict[int, int]:
        """The numbers of these transactions, once each has one."""
        async with asyncio.timeout(NUMBER_TIMEOUT_SECONDS):
            while True:
                self._head_moved.clear()
                rows = await self.sql.fetch("select xid, number from streams.commit where xid = any ($1)", xids)
                if len(rows) == len(xids):
                    return {row["xid"]: row["number"] for row in rows}
                await self._head_moved.wait()

    async def snapshot_read(self) -> None:
        """Return when a server has most likely begun to read the snapshot that it was asked for last.

        Nothing tells; if it hasn't, the example is another one, and as good.
        """
        for _ in range(SNAPSHOT_LOOKS):
            await self.sql.fetchval("select count(*) from streams.change")


async def put(sql: asyncpg.Connection[Any], key: Key, data: dict[str, Any]) -> None:
    await sql.execute(
        f"insert into streams.{key.stream} (group_id, id, data) values ($1, $2, $3) "
        "on conflict (group_id, id) do update set data = excluded.data",
        key.group,
        key.id,
        data,
    )
