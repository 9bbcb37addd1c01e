"""What is stored, for those who are not live yet: snapshots of groups, and past commits.

Its few connections are a pool of their own: subscribers that come back may wait for each other, and must not
take the steps' connections. No connection is held while a client is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from app.errors import StreamUnknownError
from app.model.change import Topic
from app.model.position import Position, ResetReason
from app.model.stream import Stream
from app.store.engine import Database
from app.store.log import read_head
from app.store.queries import load
from app.store.reading import Only, Page, PageRequest, read_page
from app.store.ready import ReadyRequest, Wording, fetch_ready
from app.store.retention import read_floor
from app.store.snapshot import Snapshot, open_snapshot

if TYPE_CHECKING:
    from app.store.reading import Connection

IS_KEPT = load("is_kept")

SNAPSHOT_TIMEOUT_SECONDS = 60.0  # the largest one at a slow disk's pace; a dead connection shows itself
PAGE_TIMEOUT_SECONDS = 30.0
PAGE_ROWS_MAX = 256  # some milliseconds' work, in which the live ones wait
PAGE_BYTES_MAX = 256 * 1024  # is handed to one connection at once, whose buffer grows by it at most


class Standing(NamedTuple):
    """The head of the log, and why a position can't be gone on from, if it can't."""

    head: int
    refused: ResetReason | None


class ForgottenError(Exception):
    """The commits that were to be read next are not kept any more."""


class Archive:
    """Reads by `database`'s archive pool. Raises OSError, TimeoutError and asyncpg's errors."""

    def __init__(self, database: Database, streams: Mapping[str, Stream]) -> None:
        self._database = database
        self._streams = streams

    async def reconnect(self) -> None:
        """Read by new connections: the present ones may lead to a server that is not the one any more."""
        await self._database.archive_pool.expire_connections()

    @asynccontextmanager
    async def snapshot(self, topic: Topic, item_id: str | None) -> AsyncIterator[Snapshot]:
        """Begin to read a group, or one item. Raises StreamUnknownError."""
        stream = self._streams.get(topic.stream)
        if stream is None:
            raise StreamUnknownError(f"no stream is named {topic.stream!r}")
        async with (
            asyncio.timeout(SNAPSHOT_TIMEOUT_SECONDS),
            self._database.archive_pool.acquire() as connection,
            open_snapshot(connection, stream.name, stream.table, topic.group_id, item_id) as snapshot,
        ):
            yield snapshot

    async def page(self, request: PageRequest, topics: Collection[Topic]) -> Page:
        """A page of past commits with the rows of `topics` (and perhaps others). Raises ForgottenError."""
        only = Only(list({topic.stream for topic in topics}), list({topic.group_id for topic in topics}))
        async with self._kept_from(request.number) as connection:
            return await read_page(
                connection,
                request,
                only,
                rows_max=PAGE_ROWS_MAX,
                bytes_max=PAGE_BYTES_MAX,
                timeout_seconds=PAGE_TIMEOUT_SECONDS,
            )

    async def ready(self, request: ReadyRequest, wording: Wording, topic: Topic, item_id: str | None) -> Sequence[Any]:
        """A page's rows of past commits as messages, for read_ready(). Raises ForgottenError."""
        async with self._kept_from(request.first) as connection:
            return await fetch_ready(connection, request, wording, topic, item_id)

    @asynccontextmanager
    async def _kept_from(self, number: int) -> AsyncIterator[Connection]:
        """A connection to read commits from `number` on. Raises ForgottenError if they weren't kept meanwhile."""
        async with asyncio.timeout(PAGE_TIMEOUT_SECONDS), self._database.archive_pool.acquire() as connection:
            yield connection
            # Asked after the page was read: what is kept now was kept then, and the oldest go first.
            is_kept = await connection.fetchval(IS_KEPT, number)
        if not is_kept:
            raise ForgottenError(f"commit {number} was to be read, but it is removed")

    async def standing(self, position: Position) -> Standing:
        """Whether `position` can be gone on from, and how far the log goes."""
        async with asyncio.timeout(PAGE_TIMEOUT_SECONDS), self._database.archive_pool.acquire() as connection:
            floor = await read_floor(connection)
            head = await read_head(connection, position.epoch, timeout_seconds=PAGE_TIMEOUT_SECONDS)
        refused: ResetReason | None = "too_old" if position.number < floor else None
        if position.number > head.shared:
            refused = "ahead" if position.epoch == head.epoch else "epoch"
        return Standing(head.number, refused)
