"""What `tidelog serve` runs: the embedded Postgres if none is given, migrations, then the server."""

from __future__ import annotations

import asyncio
import errno
import logging
import shlex
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from alembic import command
from uvicorn.supervisors import Multiprocess

from tidelog.access.causes import Causes
from tidelog.access.tokens import tokens_of
from tidelog.logs.last_words import TOLD, last_words
from tidelog.logs.redaction import Redaction
from tidelog.logs.setup import configure
from tidelog.model.stream import Stream
from tidelog.postgres.optional import embedded_postgres
from tidelog.runtime.discovery import Discovered, discover
from tidelog.settings import Settings
from tidelog.store.connecting import first_connected
from tidelog.store.requirements import check_server, is_to_be_migrated
from tidelog.store.revisions import alembic_config
from tidelog.web.exposure import check_exposure
from tidelog.web.page_rules import PageRules
from tidelog.welcome import welcome

logger = logging.getLogger("tidelog.serve")

# Long enough for steps that are running; sockets are told to come back, and don't hold up a stop.
SHUTDOWN_SECONDS = 5
START_TIMEOUT_SECONDS = 30  # of a worker, on a machine with other things to do; past it, it is taken for hung
START_LOOK_SECONDS = 0.5  # between looks for a signal meanwhile


def main(accept: Collection[str] = ()) -> None:
    """Serve until stopped; ends the process with a message and status 1 if it can't begin."""
    # As an exception, so that what was started is stopped. Uvicorn, too, passes the signals that it got on to
    # the handlers that were there before it.
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, _hang_up)
    redaction = Redaction()
    try:
        settings = Settings()
        redaction = Redaction.of_database(settings.database_url)
        configure(settings)
        serve(settings, _bind(settings), accept)
    except TOLD as error:
        sys.exit(last_words(error, redaction))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def serve(settings: Settings, bound: socket.socket, accept: Collection[str] = ()) -> None:
    """Migrate, if there is something to, and serve. It is this process that migrates, before there are workers.

    `accept` names the streams whose new schema is taken, though stored items don't fit it.

    The embedded server is held all the while, so that it starts and stops once.
    """
    discovered = discover(settings.steps_dir)
    has_authentication = discovered.authenticate is not None or tokens_of(settings, Causes()) is not None
    check_exposure(settings, has_authentication=has_authentication)
    if settings.database_url is not None:
        # It may have a password: not shown. Of SQLAlchemy's driver names psql knows nothing.
        is_psqls = "+" not in settings.database_url.partition("://")[0]
        psql = 'psql "$TIDELOG_DATABASE_URL"' if is_psqls else 'psql "postgresql:${TIDELOG_DATABASE_URL#*:}"'
        _migrate(discovered, settings.database_url, accept)
        _run(settings, bound, discovered, psql)
        return
    embedded = embedded_postgres(settings.data_dir)
    url = embedded.start()
    try:
        _migrate(discovered, url, accept)
        _run(settings, bound, discovered, f"{shlex.quote(embedded.psql)} {shlex.quote(url)}")
    finally:
        embedded.stop()


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """How this server is meant to be run; an operator's own command line should say the same."""
    return {
        "http": "tidelog.web.http_protocol:RequestProtocol",
        "ws": "tidelog.web.protocol:SocketProtocol",
        # Frames are small and many: compressing each for each socket costs more than it saves.
        "ws_per_message_deflate": False,
        "ws_max_size": settings.socket_message_size_max_bytes,
        "ws_ping_interval": settings.socket_ping_interval_seconds,
        "ws_ping_timeout": settings.socket_ping_timeout_seconds,
        "proxy_headers": False,  # uvicorn believes all that comes from this machine; TIDELOG_TRUSTED_PROXIES is ours
        "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
        "timeout_worker_healthcheck": START_TIMEOUT_SECONDS,
        "log_config": None,  # its records go where all go
        "log_level": "warning",  # at `info` it logs URLs of WebSockets, with the tokens in them
        "access_log": False,  # ours has more, and no query strings
    }


class WelcomingServer(uvicorn.Server):
    """Says `words` once it answers. A second Ctrl-C ends it at once."""

    def __init__(self, config: uvicorn.Config, words: str) -> None:
        super().__init__(config)
        self._words = words

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._words, flush=True)  # noqa: T201 - this is a command's output

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT and not self.force_exit:
            logger.warning("asked to stop for the second time: what is under way is cancelled")
            # uvicorn would show where each request was, and Litestar's end, as errors with tracebacks.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)


class WelcomingSupervisor(Multiprocess):
    """Several servers on one socket, each a process. SIGHUP replaces one after the other. Says `words`, too.

    `started` is False if the first of them could not begin, by its own fault.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], words: str) -> None:
        super().__init__(config, sockets)
        self._words = words
        self.started = False

    def init_processes(self) -> None:
        with _unheard(signal.SIGINT):
            super().init_processes()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while self.processes[0].process.is_alive() and time.monotonic() < deadline:
            if self.processes[0].wait_until_ready(START_LOOK_SECONDS):
                self.started = True
                print(self._words, flush=True)  # noqa: T201 - this is a command's output
                return
            self.handle_signals()
            if self.should_exit.is_set():
                self.started = True
                return

    def keep_subprocess_alive(self) -> None:
        before = [(process, process.exitcode) for process in self.processes]
        super().keep_subprocess_alive()
        for (process, code), now in zip(before, self.processes, strict=True):
            if now is not process:
                logger.error(
                    "worker %s %s: worker %s was started in its place, and its clients come back",
                    process.pid,
                    _cause_of_death(code),
                    now.pid,
                )


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is None:
        return f"did not answer for {START_TIMEOUT_SECONDS} s, and was killed"
    if exitcode < 0:
        return f"was killed by {signal.Signals(-exitcode).name}"
    return f"ended with status {exitcode}"


@contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Have processes that are started in here ignore a signal until they say otherwise: what is ignored is inherited.

    Ctrl-C is for them as well, and a worker that is being loaded would end with a traceback.
    """
    handler = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, handler)


async def _is_to_be_migrated(url: str, streams: Sequence[Stream]) -> bool:
    """Raises what keeps the database from being served, or migrated, by this role."""
    async with first_connected(url) as connection:
        await check_server(connection)
        return await is_to_be_migrated(connection, streams)


def _migrate(discovered: Discovered, url: str, accept: Collection[str]) -> None:
    streams = tuple(discovered.streams.values())
    if asyncio.run(_is_to_be_migrated(url, streams)):
        # Not discovered again: what is broken is logged by the server.
        command.upgrade(alembic_config(streams=streams, accept=tuple(accept)), "head")


def _run(settings: Settings, bound: socket.socket, discovered: Discovered, psql: str) -> None:
    pages = PageRules(settings).words
    words = welcome(_base_url(settings.host, bound), psql, settings.steps_dir, discovered, pages)
    config = uvicorn.Config(
        "tidelog.asgi:create_app", factory=True, workers=settings.workers, **uvicorn_options(settings)
    )
    if settings.workers == 1:
        server = WelcomingServer(config, words)
        server.run(sockets=[bound])
        started = server.started
    else:
        supervisor = WelcomingSupervisor(config, [bound], words)
        supervisor.run()
        started = supervisor.started
    if not started:
        sys.exit(1)  # the log says why


def _bind(settings: Settings) -> socket.socket:
    """The server's address, taken before anything is started. Connections come once the server listens on it."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno != errno.EADDRINUSE:
            raise
        sys.exit(
            f"tidelog: port {settings.port} of {settings.host} is in use: is Tidelog running already? "
            "Set TIDELOG_PORT to another one."
        )
    return bound


def _base_url(host: str, bound: socket.socket) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - every address is also this one
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


def _hang_up(_number: int, _frame: object) -> None:
    """The terminal was closed: stop as when asked to. (Several workers are replaced instead.)"""
    signal.raise_signal(signal.SIGTERM)


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)
