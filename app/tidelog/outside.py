"""Streams for programs that are no server: workers, scripts. Checked against the schema, as a step's writes are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from tidelog.errors import DatabaseUrlError, GrantMissingError, StreamsNotMigratedError
from tidelog.model.step import Step
from tidelog.model.stream import Stream, check_is_stream
from tidelog.runtime.awaited import AwaitedCalls, awaited_calls
from tidelog.runtime.discovery import discover
from tidelog.runtime.emitting import Emitter
from tidelog.runtime.outside_streams import OutsideStreams
from tidelog.settings import Settings
from tidelog.store.autocommit import StepAutocommit
from tidelog.store.connecting import first_connected
from tidelog.store.engine import Database
from tidelog.store.items import Items
from tidelog.store.share import Share
from tidelog.store.stream_tables import MIGRATE
from tidelog.store.transaction import StepTransaction
from tidelog.store.url import GIVEN_BY

DECLARED = "select name, schema::text from streams.stream order by name"


class OpenStreams(OutsideStreams):
    """Streams by name. Every operation commits by itself, and they may run at once; see `transaction`."""

    def __init__(self, items: Mapping[str, Items], share: Share, calls: AwaitedCalls, emitter: Emitter) -> None:
        super().__init__(items, lambda writes: StepAutocommit(share).lend(writes), calls, emitter)
        self._share = share

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[OutsideStreams]:
        """Streams whose operations are one commit: subscribers see all of it, or nothing if an exception leaves it."""
        work = StepTransaction(self._share)
        try:
            with awaited_calls() as calls:
                yield OutsideStreams(self._items, work.lend, calls, self._emitter)
            await work.commit()
        except BaseException:
            await work.rollback()
            raise


@asynccontextmanager
async def open(
    url: str | None = None,
    streams: Iterable[Stream] | None = None,
    *,
    steps_dir: Path | str | None = None,
    connections_max: int = 4,
) -> AsyncIterator[OpenStreams]:
    """The streams of the database at `url`, or of TIDELOG_DATABASE_URL: those that are given, or all declared there.

    A schema that was declared as a pydantic class is known to the database as JSON Schema: for what its validators say
    beyond that, give the stream. A call that isn't awaited is an error. `emit` is for the event steps of `steps_dir`,
    whose files are imported; they run in a server, or in `tidelog work`.

    Raises DatabaseUrlError, DatabaseUnreachableError, StreamsNotMigratedError and GrantMissingError; DeclarationError
    if there is no such folder. Later on an operation raises DatabaseUnavailableError if the database is away (nothing
    was stored), and CommitUnknownError if the connection broke in a COMMIT; connections are opened anew by themselves,
    so the same again may succeed.
    """
    settings = Settings()
    given_by = GIVEN_BY if url is None else "tidelog.open"
    url = settings.database_url if url is None else url
    if url is None:
        raise DatabaseUrlError(
            "no database is named: write tidelog.open(url), or set TIDELOG_DATABASE_URL. `tidelog serve` shows the URL "
            "of its embedded Postgres when it starts"
        )
    emitter = Emitter(() if steps_dir is None else _steps(Path(steps_dir)), settings.body_size_max_bytes)
    declared = await _declared(url, given_by)
    if streams is None:
        streams = [Stream(name, json.loads(schema)) for name, schema in declared]
    else:
        streams = list(streams)
        for stream in streams:
            check_is_stream(stream, "tidelog.open")
    async with opened(url, streams, emitter, settings, connections_max=connections_max) as those:
        yield those


@asynccontextmanager
async def opened(
    url: str, streams: Iterable[Stream], emitter: Emitter, settings: Settings, *, connections_max: int = 4
) -> AsyncIterator[OpenStreams]:
    """The same of streams that are known, without a look at the database."""
    database = Database(
        pool_size_max=connections_max,
        pool_timeout_seconds=settings.pool_timeout_seconds,
        pool_idle_seconds=settings.pool_idle_seconds,
        item_size_max_bytes=settings.body_size_max_bytes,
    )
    await database.open(url)
    try:
        items = {one.name: Items(one, size_max_bytes=settings.body_size_max_bytes) for one in streams}
        with awaited_calls() as calls:
            yield OpenStreams(items, Share(database.pool, 1.0), calls, emitter)
    finally:
        await database.close()


def _steps(folder: Path) -> Sequence[Step]:
    found = discover(folder)
    found.log_left_out()
    return found.steps


async def _declared(url: str, given_by: str) -> Sequence[Any]:
    """Name and schema of each stream."""
    async with first_connected(url, given_by=given_by) as connection:
        try:
            return await connection.fetch(DECLARED)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            raise StreamsNotMigratedError(f"this database has no Tidelog tables yet: {MIGRATE}") from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise GrantMissingError(
                f"the role may not read which streams there are ({error}): `grant usage on schema streams to ...; "
                "grant select on streams.stream to ...;`"
            ) from error
