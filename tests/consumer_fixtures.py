"""What the tests of durable consumers stand on: a database whose commits are numbered, and consumers at work.

Run as a program it is a consumer process: `python -m tests.consumer_fixtures URL NAME BATCH_MAX TIMEOUT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from tests import forks
from tests.harness import server_environment
from tidelog.consumer import Commit, Handler, consume
from tidelog.numbering.sequencer import SequencerThread
from tidelog.store.engine import Database

WAIT_SECONDS = 120
POLL_SECONDS = 0.02

EFFECTS = """
create table effects (
    ordinal  bigserial primary key,  -- drawn by the consumer in its turn, so in the order of the effects
    position bigint not null,
    seq      bigint not null,
    pid      int    not null
)"""

Effect = tuple[int, int]  # position, seq


class ConsumerKit:
    """A database with streams, a table for effects, and a connection for the test."""

    def __init__(self, url: str, connection: asyncpg.Connection[Any]) -> None:
        self.url = url
        self.connection = connection

    async def post(self, *ids: str, group: str = "general", text: str = "hello") -> None:
        """Write these items of chatMessage, all in one commit."""
        await self.connection.execute(
            "insert into streams.chat_message (group_id, id, data) "
            "select $1, id, jsonb_build_object('text', $2::text) from unnest($3::text[]) as id",
            group,
            text,
            ids,
        )

    async def numbered(self, commits: int) -> None:
        """Wait until so many commits have their numbers."""
        await self._until("select coalesce(max(number), 0) >= $1 from streams.commit", commits)

    async def until_position(self, name: str, position: int) -> None:
        """Wait until the consumer has stored this position."""
        await self._until(
            "select exists (select from streams.consumer where name = $1 and position >= $2)", name, position
        )

    async def until_effects(self, count: int) -> None:
        """Wait until there are so many effects."""
        await self._until("select count(*) >= $1 from effects", count)

    async def until_registered(self, name: str) -> None:
        """Wait until the consumer has its first position."""
        await self._until("select exists (select from streams.consumer where name = $1)", name)

    async def effects(self) -> list[Effect]:
        """What consumers did, in the order in which they did it."""
        return await self._pairs("select position, seq from effects order by ordinal")

    async def log(self, *, through: int = 1_000_000) -> list[Effect]:
        """What they had to do: the numbered changes, in order."""
        return await self._pairs(
            "select n.number, c.seq from streams.change c join streams.commit n on n.xid = c.xid "
            "where n.number <= $1 order by n.number, c.seq",
            through,
        )

    async def head(self) -> int:
        head: int = await self.connection.fetchval("select coalesce(max(number), 0) from streams.commit")
        return head

    async def position(self, name: str) -> int | None:
        position: int | None = await self.connection.fetchval(
            "select position from streams.consumer where name = $1", name
        )
        return position

    async def is_working(self, name: str) -> bool:
        """Whether some process has the consumer's row."""
        free = "select from streams.consumer where name = $1 for update skip locked"
        return await self.connection.fetchrow(free, name) is None

    async def forget_through(self, number: int) -> None:
        """What retention does."""
        await self.connection.execute(
            "with gone as (delete from streams.commit where number <= $1 returning xid) "
            "delete from streams.change where xid in (select xid from gone)",
            number,
        )

    async def begin_epoch(self, *, since: int) -> UUID:
        """What a sequencer does that finds itself on a new timeline whose head is `since`."""
        epoch: UUID = await self.connection.fetchval(
            "insert into streams.epoch (system_identifier, timeline, database, log, since_number, began_at) "
            "select system_identifier, timeline + 1, database, log, $1, clock_timestamp() "
            "from streams.epoch order by began_at desc limit 1 "
            "returning epoch",
            since,
        )
        return epoch

    async def _pairs(self, query: str, *arguments: object) -> list[Effect]:
        return [(first, second) for first, second in await self.connection.fetch(query, *arguments)]

    async def _until(self, condition: str, *arguments: object) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not await self.connection.fetchval(condition, *arguments):  # noqa: ASYNC110 - tables send no signals
                await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def open_consumer_kit(url: str) -> AsyncIterator[ConsumerKit]:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(EFFECTS)
        yield ConsumerKit(url, connection)
    finally:
        await connection.close()


@contextmanager
def numbering(url: str) -> Iterator[None]:
    """Commits get their numbers, as they do where a server runs."""
    sequencer = SequencerThread(Database.connector(url))
    sequencer.start()
    try:
        yield
    finally:
        sequencer.stop()


async def store_effects(commit: Commit, connection: asyncpg.Connection[Any]) -> None:
    """A handler: one row for each change."""
    async for change in commit:
        await connection.execute(
            "insert into effects (position, seq, pid) values ($1, $2, $3)", commit.position, change.seq, os.getpid()
        )


@asynccontextmanager
async def consuming(url: str, name: str, handler: Handler = store_effects, **options: Any) -> AsyncIterator[None]:
    """A consumer works in the background; what it raises is raised here."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(consume(url, name, handler, **options))
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def start_process(
    url: str, name: str, out: Path, *, batch_max: int = 1, timeout_seconds: float = 60
) -> forks.ForkedProgram:
    """A consumer in a process of its own, which writes to the file `out`."""
    arguments = [url, name, str(batch_max), str(timeout_seconds)]
    return forks.ForkedProgram("tests.consumer_fixtures", arguments, server_environment(url, None), out)


if __name__ == "__main__":
    _, _url, _name, _batch_max, _timeout_seconds = sys.argv
    asyncio.run(
        consume(
            _url,
            _name,
            store_effects,
            batch_max=int(_batch_max),
            transaction_timeout_seconds=float(_timeout_seconds),
        )
    )
