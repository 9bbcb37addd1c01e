"""The composition root: every moving part of a Tidelog server is made and started here.

a step's transaction ──trigger──> streams.change ──sequencer──> streams.commit
                                                                    │ NOTIFY, and in one process the shortcut
            sockets <──broadcaster<──────────reader<────────────────┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from litestar import Litestar

from tidelog.descriptors import descriptors
from tidelog.feed.broadcaster import Broadcaster
from tidelog.feed.reader import Reader
from tidelog.feed.shortcut import Shortcut
from tidelog.logs.last_words import TOLD, last_words
from tidelog.logs.setup import configure
from tidelog.model.step import endpoints_of
from tidelog.numbering.sequencer import SequencerThread
from tidelog.postgres.optional import embedded_postgres
from tidelog.runtime.blocked import BlockedLoopWatch
from tidelog.runtime.discovery import Discovered, discover
from tidelog.runtime.handler import step_in
from tidelog.runtime.runner import Runtime
from tidelog.runtime.threads import DaemonThreads, HandlerThreads
from tidelog.settings import Settings
from tidelog.store.archive import Archive
from tidelog.store.capacity import FEED_CONNECTIONS_MAX, warn_if_short
from tidelog.store.connecting import first_connection
from tidelog.store.declared import check_declared
from tidelog.store.engine import Database
from tidelog.store.requirements import check_grants, check_revision, check_server
from tidelog.store.url import DatabaseUrl
from tidelog.web.access import AccessLog
from tidelog.web.cross_origin import PageRules, PagesApp
from tidelog.web.failures import exception_handlers
from tidelog.web.health import health_controller
from tidelog.web.openapi import openapi_config
from tidelog.web.socket import SocketGate
from tidelog.web.startup import refuse
from tidelog.web.steps import step_controllers

LOOP_THREADS_MAX = 32  # what asyncio takes at most for its own executor

logger = logging.getLogger("tidelog")


class Tidelog:
    """One server process: its database, its feed, and what it was told to serve."""

    def __init__(self, settings: Settings, discovered: Discovered) -> None:
        self.settings = settings
        self.streams = discovered.streams
        if settings.database_url is not None:
            DatabaseUrl.parse(settings.database_url)  # what can't be is told before anything is started
        self.embedded = None if settings.database_url else embedded_postgres(settings.data_dir)
        self.database = Database(
            pool_size_max=settings.pool_size_max,
            pool_timeout_seconds=settings.pool_timeout_seconds,
            pool_idle_seconds=settings.pool_idle_seconds,
            step_idle_timeout_seconds=settings.step_idle_timeout_seconds,
            step_lock_timeout_seconds=settings.step_lock_timeout_seconds,
            item_size_max_bytes=settings.body_size_max_bytes,
        )
        self.threads = HandlerThreads()
        self.runtime = Runtime(self.streams, self.database, settings, self.threads)
        self.blocked = BlockedLoopWatch(step_in(discovered.steps))
        self.archive = Archive(self.database, self.streams)
        self.broadcaster = Broadcaster(self.archive, settings)
        shortcut = Shortcut(self.broadcaster)
        self.reader = Reader(self.database.connect, self.broadcaster, shortcut)
        self.sequencer = SequencerThread(self.database.connect, settings.retention, shortcut)

    @asynccontextmanager
    async def lifespan(self, app: Litestar) -> AsyncIterator[None]:
        """Start what serves, in the order in which one stands on the other; stop it in the other order."""
        # Of authors' asyncio.to_thread, too, the end of the process waits for none.
        asyncio.get_running_loop().set_default_executor(DaemonThreads(LOOP_THREADS_MAX, "tidelog-loop"))
        descriptors.prepare(self.settings.pool_size_max + FEED_CONNECTIONS_MAX)
        try:
            await self._open(app)
            await warn_if_short(
                self.database.connect, pool_size_max=self.settings.pool_size_max, workers=self.settings.workers
            )
            self.sequencer.start()
            reading = asyncio.create_task(self.reader.run())
            try:
                await self.reader.started.wait()
                self.blocked.start()
                yield
            finally:
                self.blocked.stop()
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
                await self.broadcaster.close()
                await asyncio.to_thread(self.sequencer.stop)
        finally:
            await self.database.close()
            if self.embedded is not None:
                await asyncio.to_thread(self.embedded.stop)
            for handler in logging.getLogger().handlers:
                handler.flush()  # a server that ends itself by a signal leaves Python no time for it

    async def _open(self, app: Litestar) -> None:
        """From here on there is a database. Why there can't be is told by the server that runs `app`, in a line."""
        url = self.settings.database_url
        try:
            if self.embedded is not None:
                url = await asyncio.to_thread(self.embedded.start)
            assert url is not None  # noqa: S101 - one of the two
            await self.database.open(url)
            await self._check_database(url)
        except TOLD as error:
            refuse(app, last_words(error))
            raise

    async def _check_database(self, url: str) -> None:
        """Raise what keeps this database from being served by this role."""
        streams = tuple(self.streams.values())
        connection = await first_connection(url)
        try:
            await check_server(connection)
            await check_revision(connection)
            await check_grants(connection, streams)
        finally:
            await connection.close()
        async with self.database.engine.connect() as lent:
            await check_declared(lent, streams)

    async def checks(self) -> dict[str, str]:
        """What /health/ready reports: each part, and "ok" or its trouble, a word before its details."""
        return {
            "database": await self.database.trouble() or "ok",
            "reader": self.reader.trouble or "ok",
            "subscriptions": self.broadcaster.troubles.of_all or "ok",
            "sequencer": self.sequencer.trouble or "ok",
            "numbering": self.reader.watch.numbering or "ok",
            "threads": self.threads.trouble or "ok",
        }

    def warnings(self) -> dict[str, str]:
        """What /health/ready reports beside: trouble for which the rest, all sockets first, must not be unserved."""
        of_streams = self.broadcaster.troubles.of_streams
        warnings = {f"stream {name}": trouble for name, trouble in of_streams.items()}
        warnings |= self.sequencer.sequencer.warnings
        if self.reader.watch.notify_queue:
            warnings["notify_queue"] = self.reader.watch.notify_queue
        if self.database.pool.trouble:
            warnings["pool"] = self.database.pool.trouble
        if descriptors.trouble:
            warnings["connections"] = descriptors.trouble
        return warnings


def create_app(settings: Settings | None = None) -> Litestar:
    """A server for the streams and steps under `settings.steps_dir`. Nothing is connected before it starts."""
    settings = settings or Settings()
    handler = configure(settings)
    discovered = discover(settings.steps_dir)
    for broken in discovered.broken:
        logger.error("left out %s: %s", broken.path, broken.cause)
    for skipped in discovered.skipped:
        logger.warning("left out %s: %s", skipped.path, skipped.cause)
    tidelog = Tidelog(settings, discovered)
    access_log = AccessLog(handler) if settings.logs_access else None
    endpoints = endpoints_of(discovered.steps)
    return PagesApp(
        PageRules(settings),
        SocketGate(tidelog.broadcaster, discovered.streams, settings, access_log),
        [http for _, http in endpoints],
        access_log,
        route_handlers=[
            *step_controllers(endpoints, tidelog.runtime),
            health_controller(tidelog.checks, tidelog.warnings),
        ],
        lifespan=[tidelog.lifespan],
        exception_handlers=exception_handlers,
        openapi_config=openapi_config(endpoints),
        request_max_body_size=settings.body_size_max_bytes,
        logging_config=None,
    )
