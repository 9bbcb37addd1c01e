"""Databases that are migrated once, and cloned for each test."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tidelog.migrate import upgrade
from tidelog.model.stream import Stream
from tidelog.settings import Settings
from tidelog.testing.databases import Databases, name_of

Prepare = Callable[[str], Awaitable[object] | object]


class Templates:
    """A template for each set of streams that tests ask for."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._made: dict[object, str] = {}

    async def clone(self, url: str, settings: Settings, streams: Sequence[Stream], prepare: Prepare | None) -> None:
        """Make the database at `url`, which has the tables of `streams`, and what `prepare` adds to a database.

        `prepare` is called with the URL of the template, once; it may be a coroutine function.
        """
        declared = sorted((stream.name, json.dumps(stream.schema.document, sort_keys=True)) for stream in streams)
        key = (prepare, *declared)
        template = self._made.get(key)
        if template is None:
            template = self._made[key] = await self._make(settings, streams, prepare)
        await self._databases.create(url, template=name_of(template))

    async def drop_all(self) -> None:
        """Drop the templates."""
        while self._made:
            await self._databases.drop(self._made.popitem()[1])

    async def _make(self, settings: Settings, streams: Sequence[Stream], prepare: Prepare | None) -> str:
        url = await self._databases.create()
        try:
            # In a thread: alembic runs an event loop of its own.
            await asyncio.to_thread(upgrade, settings.model_copy(update={"database_url": url}), streams)
            if prepare is not None:
                made: Any = await asyncio.to_thread(prepare, url)
                if inspect.isawaitable(made):
                    await made
            await self._databases.close_to_all(url)
        except BaseException:
            await self._databases.drop(url)
            raise
        return url
