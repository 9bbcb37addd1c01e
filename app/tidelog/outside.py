"""Streams for programs that are no server: workers, scripts. Checked against the schema, as a step's writes are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from tidelog.model.stream import Stream
from tidelog.runtime.awaited import AwaitedCalls, awaited_calls
from tidelog.runtime.context import Streams
from tidelog.settings import Settings
from tidelog.store.autocommit import StepAutocommit
from tidelog.store.engine import Database
from tidelog.store.items import Items
from tidelog.store.share import Share
from tidelog.store.transaction import StepTransaction

DECLARED = "select name, schema::text from streams.stream order by name"


class OpenStreams(Streams):
    """Streams by name. Every operation commits by itself, and they may run at once; see `transaction`."""

    def __init__(self, items: Mapping[str, Items], share: Share, calls: AwaitedCalls) -> None:
        super().__init__(items, lambda writes: StepAutocommit(share).lend(writes), calls)
        self._share = share

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Streams]:
        """Streams whose operations are one commit: subscribers see all of it, or nothing if an exception leaves it."""
        work = StepTransaction(self._share)
        try:
            with awaited_calls() as calls:
                yield Streams(self._items, work.lend, calls)
            await work.commit()
        except BaseException:
            await work.rollback()
            raise


@asynccontextmanager
async def open(
    url: str, streams: Iterable[Stream] | None = None, *, connections_max: int = 4
) -> AsyncIterator[OpenStreams]:
    """The streams of the database at `url`: those that are given, or all that are declared there.

    A schema that was declared as a pydantic class is known to the database as JSON Schema: for what its validators say
    beyond that, give the stream. A call that isn't awaited is an error. Raises OSError, asyncpg's errors, and
    DatabaseUnavailableError in operations.
    """
    settings = Settings()
    database = Database(
        pool_size_max=connections_max,
        pool_timeout_seconds=settings.pool_timeout_seconds,
        pool_idle_seconds=settings.pool_idle_seconds,
        item_size_max_bytes=settings.body_size_max_bytes,
    )
    await database.open(url)
    try:
        if streams is None:
            streams = await _declared(database)
        items = {one.name: Items(one, size_max_bytes=settings.body_size_max_bytes) for one in streams}
        with awaited_calls() as calls:
            yield OpenStreams(items, Share(database.pool, 1.0), calls)
    finally:
        await database.close()


async def _declared(database: Database) -> list[Stream]:
    connection = await database.connect()
    try:
        rows = await connection.fetch(DECLARED)
    finally:
        await connection.close()
    return [Stream(name, json.loads(schema)) for name, schema in rows]
