"""What the database's log says at the end of a run."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import asyncpg

from tests.faults.history import ChangeRow, CommitRow, EventRow, History, ItemRow
from tests.faults.plan import STREAMS
from tests.faults.sql_writer import CONNECTION_LOST

COLLECT_SECONDS = 5.0  # events are forgotten after a minute


class EventCollector:
    """Keeps the ephemeral events, whose rows are removed some time after they were delivered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._events: dict[int, EventRow] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Look now and then, until `stop`."""
        while not stop.is_set():
            with suppress(*CONNECTION_LOST, asyncpg.PostgresError):
                connection = await asyncpg.connect(self._url, timeout=5)
                try:
                    await self.look(connection)
                finally:
                    connection.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(COLLECT_SECONDS):
                    await stop.wait()

    async def look(self, connection: asyncpg.Connection[Any]) -> list[EventRow]:
        """All the events seen so far, with those of now."""
        for row in await connection.fetch(
            "select seq, xid::text::bigint, stream, group_id, id, data::text from streams.event"
        ):
            self._events[row["seq"]] = EventRow(*tuple(row)[:5], json.loads(row[5]))
        return [self._events[seq] for seq in sorted(self._events)]


async def collect(history: History, url: str, collector: EventCollector) -> None:
    """Fill in the log and the tables, as of one moment."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            history.events = await collector.look(connection)
            history.commits = [
                CommitRow(*row)
                for row in await connection.fetch(
                    "select number, xid::text::bigint, (extract(epoch from at) * 1000000)::bigint "
                    "from streams.commit order by number"
                )
            ]
            history.changes = [
                ChangeRow(*tuple(row)[:7], json.loads(row[7]))
                for row in await connection.fetch(
                    "select seq, xid::text::bigint, stream, group_id, id, op, version, data::text "
                    "from streams.change order by seq"
                )
            ]
            for stream in STREAMS:
                history.items += [
                    ItemRow(stream, *tuple(row)[:3], json.loads(row[3]))
                    for row in await connection.fetch(
                        f"select group_id, id, version, data::text from streams.{stream} order by group_id, id"
                    )
                ]
    finally:
        await connection.close()
