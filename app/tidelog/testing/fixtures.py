"""The fixtures. Those without an underscore are there to be used, and to be overridden. (PYTEST_DONT_REWRITE)"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
import pytest
import pytest_asyncio
from litestar import Litestar

from tidelog.config import TidelogConfig
from tidelog.errors import TidelogError
from tidelog.outside import OpenStreams
from tidelog.runtime.awaited import AwaitedCalls
from tidelog.settings import Settings
from tidelog.testing.application import MakeApp, app_of, app_on, opened_of, streams_of
from tidelog.testing.databases import Databases
from tidelog.testing.loop_thread import LoopThread
from tidelog.testing.postgres import postgres_server
from tidelog.testing.recording import Recorder
from tidelog.testing.served import ServedApp, serve
from tidelog.testing.templates import Prepare, Templates

SERVER_URL = "TIDELOG_TEST_DATABASE_URL"
LoopScope = Literal["function", "class", "module", "package", "session"]
Serve = Callable[..., AbstractAsyncContextManager[ServedApp]]


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where the databases of a session's tests are made."""

    thread: LoopThread
    databases: Databases
    templates: Templates

    @asynccontextmanager
    async def app(self, app: Litestar | MakeApp, prepare: Prepare | None) -> AsyncIterator[AppOnDatabase]:
        """The application and a database of its own, which is dropped at the end."""
        url = self.databases.new_url()
        made = app_on(app, url)
        try:
            await self.templates.clone(url, Settings(), streams_of(made, url), prepare)
            yield AppOnDatabase(made, url)
        finally:
            await self.databases.drop(url)


@dataclass(frozen=True, slots=True)
class AppOnDatabase:
    """An application that isn't started, and its migrated database."""

    app: Litestar
    url: str


# These are of each test, so that a module or a class may override them: pytest keeps what is a session's from the first
# test that asks for it.


@pytest.fixture
def tidelog_steps_dir(pytestconfig: pytest.Config) -> Path:
    """Override this: the folder of your *_stream.py and *_step.py files. By default that of TIDELOG_STEPS_DIR."""
    return pytestconfig.rootpath / Settings().steps_dir


@pytest.fixture
def tidelog_config(tidelog_steps_dir: Path) -> TidelogConfig:
    """Override this: what the server as delivered serves, if it isn't a folder alone."""
    return TidelogConfig(steps_dir=tidelog_steps_dir)


@pytest.fixture
def tidelog_app(tidelog_config: TidelogConfig) -> Litestar | MakeApp:
    """Override this: your own Litestar application, or a function that takes a database's URL and makes one."""
    return app_of(tidelog_config)


@pytest.fixture
def tidelog_prepare() -> Prepare | None:
    """Override this: a function that takes a database's URL and adds your own tables; each function is called once."""
    return None


@pytest.fixture(scope="session")
def tidelog_postgres_url() -> Iterator[str]:
    """Override this: the server for the databases. By default that of TIDELOG_TEST_DATABASE_URL, or an embedded one."""
    with _told_in_a_line(), postgres_server(os.environ.get(SERVER_URL) or None) as url:
        yield url


@pytest.fixture(scope="session")
def _tidelog_workshop(tidelog_postgres_url: str) -> Iterator[Workshop]:
    with LoopThread.opened() as thread:
        databases = Databases(tidelog_postgres_url)
        with _told_in_a_line(), thread.entered(databases.run()):
            workshop = Workshop(thread, databases, Templates(databases))
            try:
                yield workshop
            finally:
                thread.run(workshop.templates.drop_all())


@pytest.fixture
def _tidelog_of_test(
    _tidelog_workshop: Workshop, tidelog_app: Litestar | MakeApp, tidelog_prepare: Prepare | None
) -> Iterator[AppOnDatabase]:
    making = _tidelog_workshop.app(tidelog_app, tidelog_prepare)
    with _told_in_a_line(), _tidelog_workshop.thread.entered(making) as made:
        yield made


@contextmanager
def _told_in_a_line() -> Iterator[None]:
    """What somebody has to mend, without a traceback. It ends the test's setup, not the session."""
    try:
        yield
    except TidelogError as error:
        pytest.fail(f"tidelog.testing: {error}".replace("TIDELOG_DATABASE_URL", SERVER_URL), pytrace=False)


@pytest.fixture
def tidelog_database_url(_tidelog_of_test: AppOnDatabase) -> str:
    """The URL of the test's own database."""
    return _tidelog_of_test.url


@pytest.fixture
def tidelog_serve(
    _tidelog_workshop: Workshop, tidelog_app: Litestar | MakeApp, tidelog_prepare: Prepare | None
) -> Serve:
    """`async with tidelog_serve(app) as other:` serves another application, on a database of its own.

    Without an argument, that is another one of tidelog_app's. On a database that you name: `serve(app)`.
    """

    @asynccontextmanager
    async def serve_another(app: Litestar | MakeApp = tidelog_app) -> AsyncIterator[ServedApp]:
        making = _tidelog_workshop.app(app, tidelog_prepare)
        async with _tidelog_workshop.thread.entered_beside(making) as made, serve(made.app) as served:
            yield served

    return serve_another


def _in_loop(loop_scope: LoopScope) -> Any:
    """What runs in a loop of this scope: a test's application, and its streams."""

    @pytest_asyncio.fixture(name=f"_tidelog_served_in_{loop_scope}_loop", loop_scope=loop_scope)
    async def served(_tidelog_of_test: AppOnDatabase) -> AsyncIterator[ServedApp]:
        async with serve(_tidelog_of_test.app) as served:
            yield served

    @pytest_asyncio.fixture(name=f"_tidelog_streams_in_{loop_scope}_loop", loop_scope=loop_scope)
    async def opened(_tidelog_of_test: AppOnDatabase) -> AsyncIterator[OpenStreams]:
        async with opened_of(_tidelog_of_test.app, _tidelog_of_test.url) as streams:
            yield streams

    return served, opened


_in_function_loop, _function_streams = _in_loop("function")
_in_class_loop, _class_streams = _in_loop("class")
_in_module_loop, _module_streams = _in_loop("module")
_in_package_loop, _package_streams = _in_loop("package")
_in_session_loop, _session_streams = _in_loop("session")


def _loop_scope_of(request: pytest.FixtureRequest) -> str:
    """The scope of the event loop in which the test runs, as pytest-asyncio documents it."""
    marker = request.node.get_closest_marker("asyncio")
    said = None if marker is None else marker.kwargs.get("loop_scope")
    scope = said or request.config.getini("asyncio_default_test_loop_scope")
    return scope if scope in get_args(LoopScope) else "function"


@pytest.fixture
def tidelog_served(request: pytest.FixtureRequest) -> ServedApp:
    """The application, served to the test, in its event loop."""
    served: ServedApp = request.getfixturevalue(f"_tidelog_served_in_{_loop_scope_of(request)}_loop")
    return served


@pytest.fixture
def client(tidelog_served: ServedApp) -> httpx.AsyncClient:
    """An HTTP client of the application: `await client.post("/jobs", json={...})`."""
    return tidelog_served.client


@pytest.fixture
def tidelog_streams(request: pytest.FixtureRequest) -> OpenStreams:
    """The streams of the test's database, as tidelog.open has them; the application need not run."""
    streams: OpenStreams = request.getfixturevalue(f"_tidelog_streams_in_{_loop_scope_of(request)}_loop")
    return streams


@pytest.fixture
def streams(tidelog_streams: OpenStreams) -> OpenStreams:
    """What `context.streams` is in a step: `await streams.job.set("ada", "j1", {...})`. Each call commits."""
    return tidelog_streams


@pytest.fixture
def recorder(tidelog_served: ServedApp) -> Callable[..., Recorder]:
    """`async with recorder("job", "ada") as seen:` records what a subscriber gets."""
    return tidelog_served.recorder


@pytest.fixture
def settled(tidelog_served: ServedApp) -> Iterator[Callable[..., Any]]:
    """`await settled()` returns when subscribers have all that was committed before."""
    calls = AwaitedCalls()

    def settled(timeout_seconds: float = 30) -> Any:
        return calls(tidelog_served.settled(timeout_seconds))

    yield settled
    if calls.close():
        raise RuntimeError("settled() was not awaited: write `await settled()`")
