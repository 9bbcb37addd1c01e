"""An application that is served to a test: by a real server on a port of its own, in the test's event loop."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any

import httpx
import uvicorn
from litestar import Litestar
from litestar.utils import normalize_path

from tidelog.errors import ApplicationUnfitError, StreamUnknownError
from tidelog.plugin import TidelogPlugin
from tidelog.serve import uvicorn_options
from tidelog.testing.application import plugins_of
from tidelog.testing.recording import Recorder, Recording
from tidelog.testing.settling import settle

HOST = "127.0.0.1"
PARAMETER = re.compile(r"\{[^}]*\}")  # of a path, as Litestar has it
HTTP_TIMEOUT_SECONDS = 90.0  # longer than a step may run, unless its config says otherwise
STOP_SECONDS = 1  # for requests that are still answered at the end of a test, before they are broken off


class ServedApp:
    """What a test has of an application that is served."""

    def __init__(self, app: Litestar, port: int) -> None:
        self.app = app
        self.url = f"http://{HOST}:{port}"
        self.ws_url = f"ws://{HOST}:{port}"
        self.client: httpx.AsyncClient = LoopClient(
            # No proxy of the environment's is asked for what is in this process.
            base_url=self.url,
            timeout=HTTP_TIMEOUT_SECONDS,
            trust_env=False,
            verify=_tls(),
        )
        self._recordings: list[tuple[TidelogPlugin, Recording]] = []

    def recorder(
        self,
        stream: str,
        group: str,
        item: str | None = None,
        *,
        path: str | None = None,
        token: str | None = None,
        **connect_options: Any,
    ) -> Recorder:
        """Subscribes to a group, or to one item of it, with `async with`, which gives a Recording.

        `path` is where the WebSocket is, if the application has several plugins or parameters in that path. The rest is
        for the connection: tidelog.client.Client has it. Raises StreamUnknownError.
        """
        plugin = self._plugin_of(stream, path)
        path = self._path_of(plugin) if path is None else path
        recording = Recording(self.ws_url + path, stream, group, item, token, connect_options)
        self._recordings.append((plugin, recording))
        return Recorder(recording)

    async def settled(self, timeout_seconds: float = 30) -> None:
        """Wait until all that was committed before this call is numbered, and the subscribers have it, recorders too.

        Raises NotSettledError, which names what is missing.
        """
        for plugin in plugins_of(self.app):
            recordings = [recording for other, recording in self._recordings if other is plugin]
            await settle(plugin.tidelog, recordings, timeout_seconds)

    async def close(self) -> None:
        """End what the test has left open."""
        for _, recording in self._recordings:
            await recording.close()
        await self.client.aclose()

    def _plugin_of(self, stream: str, path: str | None) -> TidelogPlugin:
        plugins = plugins_of(self.app)
        found = [plugin for plugin in plugins if stream in plugin.tidelog.streams]
        if not found:
            known = sorted(name for plugin in plugins for name in plugin.tidelog.streams)
            raise StreamUnknownError(f"no stream is named {stream!r}; declared are: {', '.join(known) or 'none'}")
        if len(found) > 1:
            found = [plugin for plugin in found if path is not None and self._leads_to(plugin, path)]
        if len(found) != 1:
            raise ApplicationUnfitError(
                f"several plugins have a stream {stream!r}: say which is meant, recorder(..., path=...)"
            )
        return found[0]

    def _path_of(self, plugin: TidelogPlugin) -> str:
        path = normalize_path(f"{self.app.path}/{plugin.config.path}")
        if PARAMETER.search(path):
            raise ApplicationUnfitError(f"the WebSocket is at {path}: say where in that, recorder(..., path=...)")
        return path

    def _leads_to(self, plugin: TidelogPlugin, path: str) -> bool:
        parts = PARAMETER.split(normalize_path(f"{self.app.path}/{plugin.config.path}"))
        return re.fullmatch("[^/]+".join(map(re.escape, parts)), normalize_path(path)) is not None


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients: httpx would read all certificates for each, which may take longer than a clone."""
    return httpx.create_ssl_context(trust_env=False)


class LoopClient(httpx.AsyncClient):
    """One that says so where it would wait for ever: the server runs in the event loop in which it was started."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._loop = asyncio.get_running_loop()

    async def send(self, *arguments: Any, **options: Any) -> httpx.Response:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "the application of this client runs in another event loop than this call: have fixtures that use it "
                "run in the loop of the test, by pytest-asyncio's loop_scope"
            )
        return await super().send(*arguments, **options)


@asynccontextmanager
async def serve(app: Litestar) -> AsyncIterator[ServedApp]:
    """The application, started and served until the end. Raises what its lifespan raises."""
    # asyncio turns Nagle's algorithm off for what says that it is TCP: with it, a frame waits 40 ms for the one before.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.bind((HOST, 0))
        server = _Server(app)
        running = asyncio.create_task(_run(app, server, bound))
        begun = asyncio.create_task(server.begun.wait())
        try:
            await asyncio.wait((begun, running), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            served = ServedApp(app, bound.getsockname()[1])
            try:
                yield served
            finally:
                await served.close()
        finally:
            begun.cancel()
            server.end()
            await running


async def _run(app: Litestar, server: _Server, bound: socket.socket) -> None:
    """In one task: what an application opens in its lifespan may have to be closed by the task that opened it."""
    try:
        # Not by the server, which would log what it raises.
        async with app.lifespan():
            await server.serve(sockets=[bound])
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # the one that somebody wants to read
        raise error from None


class _Server(uvicorn.Server):
    """Begins and ends by events, and leaves the signals to pytest: Ctrl-C ends the test."""

    def __init__(self, app: Litestar) -> None:
        options = uvicorn_options(plugins_of(app)[0].tidelog.settings) | {"timeout_graceful_shutdown": STOP_SECONDS}
        super().__init__(uvicorn.Config(app, lifespan="off", **options))
        self.begun = asyncio.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Have it end."""
        self.should_exit = True
        self._ending.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._ending.wait()
