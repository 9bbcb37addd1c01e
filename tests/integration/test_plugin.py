"""Tidelog in somebody's own Litestar application, on plain uvicorn: with their session, guards and paths."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.background_tasks import BackgroundTask
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException, NotAuthorizedException
from litestar.handlers import BaseRouteHandler, websocket_listener
from litestar.logging import LoggingConfig
from litestar.middleware.logging import LoggingMiddlewareConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.openapi import OpenAPIConfig
from litestar.plugins import InitPlugin
from litestar.testing import TestClient
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from tests.harness import (
    HTTP_TIMEOUT_SECONDS,
    PROGRAM_TIMEOUT_SECONDS,
    Databases,
    Subscriber,
    eventually,
    free_port,
)
from tidelog import (
    ItemConflictError,
    ItemInvalidError,
    OutsideStreams,
    Stream,
    Streams,
    TidelogConfig,
    TidelogPlugin,
)
from tidelog.errors import DatabaseUnreachableError, DatabaseUrlError, DeclarationError, StepEndedError
from tidelog.migrate import upgrade_on
from tidelog.settings import Settings

# Applications are written with what Litestar infers from names and types, which it is about to give up.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")

STEP = """
config = {"type": "api", "name": "Get", "method": "GET", "path": "/jobs/:user/:id", "emits": []}


async def handler(req, context):
    at = req["pathParams"]
    return {"status": 200, "body": await context.streams.job.get(at["user"], at["id"])}
"""

ECHO = """
config = {"type": "api", "name": "Echo", "method": "POST", "path": "/echo/:user", "emits": []}


async def handler(req, context):
    return {"status": 200, "body": [req["pathParams"], req["body"]]}
"""

APPLICATION = """
from litestar import Litestar
from tidelog import Stream, TidelogConfig, TidelogPlugin

app = Litestar(plugins=[TidelogPlugin(TidelogConfig(database_url={url!r}, streams=[Stream("job", {{}})]))])
"""


# Litestar's own log would be the whole test run's from then on.
make_app = partial(Litestar, logging_config=LoggingConfig(configure_root_logger=False))


class Job(BaseModel):
    title: str


class BrokenError(Exception):
    """What an author's handler may raise."""


JOB = Stream("job", Job)


@asynccontextmanager
async def serving(app: Litestar) -> AsyncIterator[Any]:
    """The application on a server of no kind of ours; with what Subscriber needs to know of a server."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="on", log_config=None))
    running = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started or running.done())
        if running.done():
            running.result()
        base = f"127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=f"http://{base}", timeout=HTTP_TIMEOUT_SECONDS) as http:
            yield SimpleNamespace(http=http, ws_url=f"ws://{base}")
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def url(databases: Databases) -> AsyncIterator[str]:
    """A database that is an application's own, and has nothing of Tidelog's yet."""
    url = await databases.create()
    connection = await asyncpg.connect(url)
    await connection.execute("create table orders (id text primary key)")
    await connection.close()
    yield url
    await databases.drop(url)


async def migrated(plugin: TidelogPlugin) -> TidelogPlugin:
    await asyncio.to_thread(plugin.migrate)
    return plugin


def sessions(url: str) -> Provide:
    """The application's own: `db_session` for its handlers, committed when they have returned."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(url))

    async def provide() -> AsyncGenerator[AsyncSession, None]:
        async with AsyncSession(engine) as session, session.begin():
            yield session
        await engine.dispose()

    return Provide(provide)


async def ids(url: str, table: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(f"select id from {table} order by id")]
    finally:
        await connection.close()


@post("/orders/{id:str}")
async def order(id: str, db_session: AsyncSession, streams: Streams, fails: bool = False) -> dict[str, Any]:
    """Their table first, or not at all: the stream joins a transaction, or begins it."""
    if not fails:
        await db_session.execute(text("insert into orders values (:id)"), {"id": id})
    job = await streams.job.set("all", id, Job(title=id))
    if fails:
        await db_session.execute(text("insert into orders values (:id)"), {"id": id})
        raise BrokenError
    return dict(job)


async def test_a_stream_is_in_the_transaction_of_the_applications_session(url: str) -> None:
    """Both are stored and told, or neither; the items are checked as a step's are."""
    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB], path="/live")))
    app = make_app([order], plugins=[plugin], dependencies={"db_session": sessions(url)})
    async with serving(app) as server, Subscriber.connect(server, path="/live") as subscriber:
        view = await subscriber.view("job", "all")
        assert (await server.http.post("/orders/lost", params={"fails": True})).status_code == 500
        assert (await server.http.post("/orders/kept")).json() == {"id": "kept", "title": "kept"}
        await subscriber.until(lambda _: bool(view.items))
        assert view.items == {"kept": {"id": "kept", "title": "kept"}}
    assert await ids(url, "orders") == await ids(url, "streams.job") == ["kept"]


async def test_without_a_session_a_handlers_calls_are_a_transaction_of_their_own(url: str) -> None:
    """It is committed before the response is sent, and rolled back by an exception."""
    refused: list[Exception] = []

    @post("/jobs/{id:str}")
    async def start(id: str, streams: Streams, fails: bool = False) -> None:
        await streams.job.set("all", id, {"title": id})
        try:
            await streams.job.set("all", "other", {"titel": id})
        except ItemInvalidError as error:
            refused.append(error)
        if fails:
            raise BrokenError

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB])))
    async with serving(make_app([start], plugins=[plugin])) as server:
        assert (await server.http.post("/jobs/lost", params={"fails": True})).status_code == 500
        assert await ids(url, "streams.job") == []
        assert (await server.http.post("/jobs/kept")).status_code == 201
        assert await ids(url, "streams.job") == ["kept"]
    assert len(refused) == 2


@pytest.mark.parametrize("has_session", [True, False])
async def test_a_handler_has_all_that_steps_can_do_with_items(url: str, has_session: bool) -> None:
    """Updates that lose nothing though many are at it, in the session's transaction and in one of their own."""

    async def count(streams: Streams) -> int:
        job = streams.job
        item = await job.update(
            "all", "n", [{"type": "increment", "path": "n"}, {"type": "set", "path": "title", "value": ""}]
        )
        await job.merge_patch("all", "n", {"tags": ["a"]})
        await job.patch("all", "n", [{"op": "add", "path": "/tags/-", "value": "b"}])
        found = await job.query("all", where={"tags": {"contains": ["b"]}}, order_by="-n", limit=1)
        assert [one["id"] for one in found] == ["n"] and await job.count("all") == 1
        assert await job.list_groups() == ["all"] and len(await job.list_all(limit=5)) == 1
        with pytest.raises(ItemConflictError):
            await job.create("all", "n", {"title": "there"})
        return int(item["n"])

    async def in_session(db_session: AsyncSession, streams: Streams) -> int:
        return await count(streams)

    async def alone(streams: Streams) -> int:
        return await count(streams)

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB])))
    dependencies = {"db_session": sessions(url)} if has_session else {}
    app = make_app([post("/count")(in_session if has_session else alone)], plugins=[plugin], dependencies=dependencies)
    async with serving(app) as server:
        answers = await asyncio.gather(*(server.http.post("/count") for _ in range(10)))
    assert sorted(answer.json() for answer in answers) == list(range(1, 11))


@pytest.mark.parametrize("has_session", [True, False])
async def test_a_handler_can_tell_what_to_wait_for(url: str, has_session: bool) -> None:
    """The id of its transaction, or of its session's: a read that waits for it finds what was written."""

    async def store(id: str, streams: OutsideStreams) -> Response[None]:
        assert await streams.transaction_id() is None
        await streams.job.set("all", id, {"title": id})
        return Response(None, headers={"Tidelog-Transaction": await streams.transaction_id()})

    async def in_session(id: str, db_session: AsyncSession, streams: OutsideStreams) -> Response[None]:
        return await store(id, streams)

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB])))
    dependencies = {"db_session": sessions(url)} if has_session else {}
    handler = post("/jobs/{id:str}")(in_session if has_session else store)
    async with serving(make_app([handler], plugins=[plugin], dependencies=dependencies)) as server:
        for number in range(5):
            stored = await server.http.post(f"/jobs/{number}")
            wanted = {"group": "all", "id": number, "wait_for": stored.headers["Tidelog-Transaction"]}
            assert (await server.http.get("/streams/job/items", params=wanted)).json()["item"]["id"] == str(number)


async def test_calls_at_once_take_turns_in_the_applications_session(url: str) -> None:
    """A session has one connection; statements at once on it fail, or wait for each other."""

    @post("/jobs")
    async def start(db_session: AsyncSession, streams: Streams) -> None:
        await asyncio.gather(*(streams.job.set("all", str(number), {"title": "at once"}) for number in range(5)))

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB])))
    async with serving(make_app([start], plugins=[plugin], dependencies={"db_session": sessions(url)})) as server:
        assert (await server.http.post("/jobs")).status_code == 201
    assert await ids(url, "streams.job") == list("01234")


@pytest.mark.parametrize("has_session", [False, True])
async def test_a_call_that_is_not_awaited_is_an_error(url: str, has_session: bool) -> None:
    """It would be lost behind an answer that says it was stored, in a plain handler always."""

    async def forget(streams: Streams, forgets: bool) -> None:
        await streams.job.set("all", "awaited", {"title": "awaited"})
        if forgets:
            streams.job.set("all", "forgotten", {"title": "forgotten"})

    @post("/async")
    async def start(streams: Streams, forgets: bool = True) -> None:
        await forget(streams, forgets)

    @post("/plain", sync_to_thread=True)
    def start_plain(streams: Streams) -> None:
        streams.job.set("all", "plain", {"title": "plain"})

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB])))
    dependencies = {"db_session": sessions(url)} if has_session else {}
    async with serving(make_app([start, start_plain], plugins=[plugin], dependencies=dependencies)) as server:
        assert (await server.http.post("/plain")).status_code == 500
        assert (await server.http.post("/async")).status_code == 500
        if not has_session:  # when its session commits is the application's to say
            assert await ids(url, "streams.job") == []
        assert (await server.http.post("/async", params={"forgets": False})).status_code == 201
    assert await ids(url, "streams.job") == ["awaited"]


@pytest.mark.parametrize("has_session", [True, False])
async def test_what_comes_behind_the_request_is_an_error_and_not_lost(url: str, has_session: bool) -> None:
    """A background task has the streams of a handler whose transaction is over: nothing would commit what it stores."""
    raised: list[Exception] = []

    async def later(streams: Streams) -> None:
        try:
            await streams.job.set("all", "later", {"title": "later"})
        except StepEndedError as error:
            raised.append(error)

    async def in_session(db_session: AsyncSession, streams: Streams) -> Response[None]:
        return Response(None, background=BackgroundTask(later, streams))

    async def alone(streams: Streams) -> Response[None]:
        return Response(None, background=BackgroundTask(later, streams))

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB])))
    dependencies = {"db_session": sessions(url)} if has_session else {}
    app = make_app([post("/jobs")(in_session if has_session else alone)], plugins=[plugin], dependencies=dependencies)
    async with serving(app) as server:
        assert (await server.http.post("/jobs")).status_code == 201
        await eventually(lambda: raised)
    assert await ids(url, "streams.job") == []


async def test_on_a_socket_of_the_applications_each_call_commits(url: str) -> None:
    """Its handler may run for days: a transaction would keep all of it from everybody as long."""

    @websocket_listener("/theirs")
    async def store(data: str, streams: Streams) -> str:
        await streams.job.set("all", data, {"title": data})
        return data

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB], path="/live")))
    async with serving(make_app([store], plugins=[plugin])) as server, connect(f"{server.ws_url}/theirs") as socket:
        await socket.send("1")
        assert await socket.recv() == "1"
        assert await ids(url, "streams.job") == ["1"]


@pytest.mark.parametrize(
    ("given", "instead"), [("job", r"\[Stream\('job', \.\.\.\)\]"), (Job, r'\[Stream\("job", Job\)\]')]
)
def test_what_is_given_as_a_stream_and_is_none_is_refused(given: Any, instead: str) -> None:
    """With what to write, and not by an attribute that it lacks."""
    with pytest.raises(DeclarationError, match=f"TidelogConfig\\(streams=...\\) has .* write {instead} there"):
        TidelogPlugin(TidelogConfig(streams=[given]))


@pytest.mark.parametrize("migrates", [True, False])
async def test_a_database_is_told_by_where_its_url_was_given(migrates: bool) -> None:
    """Who wrote it into the application doesn't look for it in the environment."""
    with pytest.raises(DatabaseUrlError, match=r"the database URL \(TidelogConfig\(database_url=\.\.\.\)\) "):
        TidelogPlugin(TidelogConfig(database_url="mysql://h/d"))
    plugin = TidelogPlugin(TidelogConfig(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none"))
    named = r"database of TidelogConfig\(database_url=\.\.\.\): .*nothing listens there"
    with pytest.raises(DatabaseUnreachableError, match=named):
        if migrates:
            await asyncio.to_thread(plugin.migrate)
        else:
            async with plugin.tidelog.working():
                pass


def test_what_two_would_have_in_common_is_refused() -> None:
    """Litestar takes one of them and says nothing: items would be stored in the other's database."""
    config = TidelogConfig(database_url="postgresql://nobody@127.0.0.1:9/none")
    others = {"streams_dependency": replace(config, path="/other"), "path": replace(config, streams_dependency="other")}
    for remedy, other in others.items():
        with pytest.raises(ImproperlyConfiguredException, match=f"TidelogConfig\\({remedy}="):
            make_app(plugins=[TidelogPlugin(config), TidelogPlugin(other)])

    async def provide() -> int:
        return 1

    with pytest.raises(ImproperlyConfiguredException, match="streams"):
        make_app(plugins=[TidelogPlugin(config)], dependencies={"streams": Provide(provide)})


async def test_an_application_may_be_started_again(url: str) -> None:
    """As tests start theirs, each time in another event loop: it stores, tells and is ready every time."""

    @post("/jobs/{id:str}")
    async def start(id: str, streams: Streams) -> None:
        await streams.job.set("all", id, {"title": id})

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB], health=True)))
    app = make_app([start], plugins=[plugin])

    def use(number: int) -> None:
        with TestClient(app) as client, client.websocket_connect("/", subprotocols=["tidelog.v1"]) as socket:
            socket.send_json({"type": "subscribe", "id": "s", "stream": "job", "group": "all"})
            while socket.receive_json()["type"] != "live":
                pass
            assert client.post(f"/jobs/{number}").status_code == 201
            assert [change["id"] for change in socket.receive_json()["changes"]] == [str(number)]
            assert client.get("/health/ready").status_code == 200

    for number in range(3):
        await asyncio.to_thread(use, number)
    assert await ids(url, "streams.job") == ["0", "1", "2"]


async def test_a_plugin_tells_its_figures(url: str) -> None:
    """An application's metrics ask for them: who is connected, what waits, how far the feed is."""

    @post("/jobs/{id:str}")
    async def start(id: str, streams: Streams) -> None:
        await streams.job.set("all", id, {"title": id})

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB])))
    async with serving(make_app([start], plugins=[plugin])) as server, Subscriber.connect(server) as subscriber:
        view = await subscriber.view("job", "all")
        before = plugin.tidelog.stats().feed
        await server.http.post("/jobs/one")
        await subscriber.until(lambda _: "one" in view.items)
        await eventually(lambda: plugin.tidelog.stats().feed.lag_seconds == 0)
        stats = plugin.tidelog.stats()
        after = stats.feed
        assert (after.connections, after.subscriptions_live, after.lag_commits) == (1, {"job": 1}, 0)
        assert (after.commits_total - before.commits_total, after.deliveries_total - before.deliveries_total) == (1, 1)
        assert (stats.database_connections_lent, after.failed_connections_total) == (0, 0)


async def test_a_plugin_that_serves_says_so_to_a_second_application(url: str) -> None:
    """It has one feed; the first goes on."""
    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB], health=True)))
    async with serving(make_app([], plugins=[plugin])) as server:
        with pytest.raises(ExceptionGroup) as raised:
            async with make_app([], plugins=[plugin]).lifespan():
                pass
        assert raised.group_contains(RuntimeError, match="one of its own")
        assert (await server.http.get("/health/ready")).status_code == 200


async def test_two_of_them_live_in_one_application(url: str, databases: Databases, tmp_path: Path) -> None:
    """Each with its path, its database, its steps, its name for handlers; the rest stays the application's."""
    (tmp_path / "get_step.py").write_text(STEP)
    other_url = await databases.create()
    try:
        one = TidelogConfig(database_url=url, streams=[JOB], steps_dir=tmp_path, path="/one", health=True)
        other = TidelogConfig(database_url=other_url, streams=[JOB], path="/other", streams_dependency="other_streams")

        @post("/jobs/{id:str}")
        async def start(id: str, streams: Streams, other_streams: Streams) -> None:
            await streams.job.set("all", id, {"title": "here"})
            await other_streams.job.set("all", id, {"title": "there"})

        @get("/fails")
        async def fails() -> None:
            raise NotAuthorizedException("theirs")

        plugins: list[InitPlugin] = [await migrated(TidelogPlugin(config)) for config in (one, other)]
        app = make_app([start, fails], plugins=plugins, openapi_config=OpenAPIConfig(title="Theirs", version="7"))
        async with serving(app) as server:
            async with (
                Subscriber.connect(server, path="/one") as subscriber,
                Subscriber.connect(server, path="/other") as other_subscriber,
            ):
                assert (await server.http.post("/jobs/1")).status_code == 201
                assert (await subscriber.view("job", "all")).items == {"1": {"id": "1", "title": "here"}}
                assert (await other_subscriber.view("job", "all")).items == {"1": {"id": "1", "title": "there"}}
            assert (await server.http.get("/one/jobs/all/1")).json() == {"id": "1", "title": "here"}
            assert (await server.http.get("/one/health/ready")).status_code == 200
            assert (await server.http.get("/other/health/ready")).status_code == 404
            assert (await server.http.get("/fails")).json() == {"status_code": 401, "detail": "theirs"}
            document = (await server.http.get("/schema/openapi.json")).json()
            assert document["info"] == {"title": "Theirs", "version": "7"}
            assert {"/jobs/{id}", "/one/jobs/{user}/{id}"} <= document["paths"].keys()
    finally:
        await databases.drop(other_url)


async def test_guards_of_the_application_decide_on_the_socket(url: str) -> None:
    """Who is refused doesn't get as far as a handshake."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if "let-me-in" not in connection.headers.get("sec-websocket-protocol", ""):
            raise NotAuthorizedException

    plugin = await migrated(TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB], path="/live")))
    async with serving(make_app([], plugins=[plugin], guards=[guard])) as server:
        with pytest.raises(InvalidStatus, match="403"):
            async with Subscriber.connect(server, path="/live"):
                pass
        async with Subscriber.connect(server, token="let-me-in", path="/live") as subscriber:
            await subscriber.view("job", "all")


async def test_a_step_is_asked_for_as_any_route_of_the_application(tmp_path: Path) -> None:
    """Hooks before a request hold for it. What they, guards and middleware read of it is there for the step still."""
    (tmp_path / "echo_step.py").write_text(ECHO)
    seen: list[Any] = []

    async def guard(request: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        assert isinstance(request, Request)
        seen.append((request.path_params, await request.body()))

    async def hook(request: Request[Any, Any, Any]) -> Response[str] | None:
        assert await request.json() == {"a": 1}
        return Response("theirs", status_code=401) if "x-stop" in request.headers else None

    config = TidelogConfig(
        database_url="postgresql://nobody@127.0.0.1:9/none", steps_dir=tmp_path, path="/{tenant:str}"
    )
    options: list[dict[str, Any]] = [
        {"guards": [guard]},
        {"before_request": hook},
        {"middleware": [LoggingMiddlewareConfig().middleware]},  # which logs bodies
    ]
    for option in options:
        app = make_app([], plugins=[TidelogPlugin(config)], **option)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://theirs") as http:
            echoed = await http.post("/acme/echo/ada", json={"a": 1})
            assert echoed.json() == [{"user": "ada"}, {"a": 1}]
            if "before_request" in option:
                refused = await http.post("/acme/echo/ada", json={"a": 1}, headers={"x-stop": "1"})
                assert (refused.status_code, refused.text) == (401, "theirs")
    assert seen == [({"user": "ada"}, b'{"a":1}')]


@pytest.mark.parametrize(
    ("application", "path", "documented"),
    [("/", "live", "/live/echo/{user}"), ("/v1", "/", "/v1/echo/{user}"), ("/{t:str}", "/a/", "/{t}/a/echo/{user}")],
)
def test_steps_are_documented_where_they_are(application: str, path: str, documented: str, tmp_path: Path) -> None:
    """However the paths that they are below are written."""
    (tmp_path / "echo_step.py").write_text(ECHO)
    config = TidelogConfig(database_url="postgresql://nobody@127.0.0.1:9/none", steps_dir=tmp_path, path=path)
    app = make_app([], path=application, plugins=[TidelogPlugin(config)])
    assert documented in app.openapi_schema.to_schema()["paths"]


async def test_a_path_may_end_in_what_is_missing_or_in_all_the_rest(tmp_path: Path) -> None:
    """As on the server as delivered, though here it is Litestar that finds the steps."""
    for name, path in {"docs": "/docs/:page?", "files": "/files/*rest"}.items():
        (tmp_path / f"{name}_step.py").write_text(ECHO.replace("/echo/:user", path))
    config = TidelogConfig(database_url="postgresql://nobody@127.0.0.1:9/none", steps_dir=tmp_path, path="/{t:str}")
    app = make_app([], plugins=[TidelogPlugin(config)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://theirs") as http:
        for asked, params in (
            ("docs", {}),
            ("docs/a", {"page": "a"}),
            ("files/a", {"rest": "a"}),
            ("files/a/b.txt", {"rest": "a/b.txt"}),
        ):
            assert (await http.post(f"/acme/{asked}", json={})).json() == [params, {}]


@pytest.mark.parametrize("part", ["a%00b", "%ff"])
async def test_a_part_of_a_path_that_no_key_could_be_is_refused(part: str, tmp_path: Path) -> None:
    """As by the server as delivered; Litestar's router would let it pass, with other characters for wrong bytes."""
    (tmp_path / "echo_step.py").write_text(ECHO)
    config = TidelogConfig(database_url="postgresql://nobody@127.0.0.1:9/none", steps_dir=tmp_path)
    app = make_app([], plugins=[TidelogPlugin(config)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://theirs") as http:
        refused = await http.post(f"/echo/{part}", json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "path_invalid")


async def test_other_peoples_pages_open_no_socket(url: str) -> None:
    """A browser would send the application's cookies with it; the setting says whose pages may."""
    settings = Settings(cors_origins=("https://ours.example",))
    config = TidelogConfig(database_url=url, streams=[JOB], path="/live", settings=settings)
    plugin = await migrated(TidelogPlugin(config))
    async with serving(make_app([], plugins=[plugin])) as server:
        at = f"{server.ws_url}/live"
        own = Origin(at.removesuffix("/live").replace("ws:", "http:"))
        for allowed in (None, own, Origin("https://ours.example")):
            async with connect(at, origin=allowed):
                pass
        for other in (Origin("https://evil.example"), Origin("null")):
            with pytest.raises(InvalidStatus, match="403"):
                async with connect(at, origin=other):
                    pass


@pytest.mark.parametrize(("origins", "named"), [(None, False), ("*", False), ("http://localhost:*", True)])
async def test_a_socket_with_a_session_is_for_our_own_pages_and_those_that_are_named(
    url: str, origins: str | None, named: bool
) -> None:
    """Another page of the visitor's machine gets its cookies sent, too: browsers know no ports there."""
    settings = Settings() if origins is None else Settings(cors_origins=origins)  # type: ignore[arg-type]
    config = TidelogConfig(database_url=url, streams=[JOB], path="/live", settings=settings)
    plugin = await migrated(TidelogPlugin(config))

    @get("/log-in")
    async def log_in(request: Request[Any, Any, Any]) -> None:
        request.set_session({"user": "ada"})

    middleware = ServerSideSessionConfig().middleware
    async with serving(make_app([log_in], plugins=[plugin], middleware=[middleware])) as server:
        await server.http.get("/log-in")
        ((name, value),) = server.http.cookies.items()
        at = f"{server.ws_url}/live"
        own, other = Origin(server.ws_url.replace("ws:", "http:")), Origin("http://localhost:8000")

        async def status(origin: Origin | None, headers: dict[str, str]) -> int:
            try:
                async with connect(at, origin=origin, additional_headers=headers, proxy=None):
                    return 101
            except InvalidStatus as error:
                return error.response.status_code

        session = {"Cookie": f"{name}={value}"}
        assert [await status(origin, session) for origin in (None, own)] == [101, 101]
        assert await status(other, session) == (101 if named else 403)
        # Without a session there is nobody whose rights a page could take; nor has a stray cookie any.
        assert [await status(other, headers) for headers in ({}, {"Cookie": "stray=1"})] == [101, 101]


async def test_a_stream_given_and_one_of_a_file_are_not_one_table(url: str, tmp_path: Path) -> None:
    """Which of the two would be served isn't said."""
    (tmp_path / "job_stream.py").write_text('config = {"name": "job", "schema": {}, "baseConfig": None}')
    with pytest.raises(Exception, match=r"streams\.job"):
        TidelogPlugin(TidelogConfig(database_url=url, streams=[JOB], steps_dir=tmp_path))


async def test_the_tables_come_by_litestars_command_too(url: str, tmp_path: Path) -> None:
    """`litestar tidelog migrate`, for every plugin of the application."""
    (tmp_path / "theirs.py").write_text(APPLICATION.format(url=url))
    command = [sys.executable, "-m", "litestar", "--app", "theirs:app", "tidelog", "migrate"]
    await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, check=True, timeout=PROGRAM_TIMEOUT_SECONDS)
    assert await ids(url, "streams.job") == []


async def test_litestars_command_says_in_a_line_what_is_wrong(tmp_path: Path) -> None:
    """For the person who ran it."""
    (tmp_path / "theirs.py").write_text(APPLICATION.format(url="postgresql://nobody@127.0.0.1:9/none"))
    command = [sys.executable, "-m", "litestar", "--app", "theirs:app", "tidelog", "migrate"]
    ended = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_SECONDS
    )
    assert ended.returncode == 1 and ended.stderr.startswith("tidelog: database_unreachable: "), ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_the_tables_come_with_the_applications_own_migrations(url: str) -> None:
    """In their transaction: rolled back with it, and committed with it."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(url))
    async with engine.connect() as connection:
        transaction = await connection.begin()
        await connection.run_sync(upgrade_on, [JOB])
        await transaction.rollback()
    with pytest.raises(asyncpg.UndefinedTableError):
        await ids(url, "streams.job")
    async with engine.begin() as connection:
        await connection.run_sync(upgrade_on, [JOB])
    await engine.dispose()
    assert await ids(url, "streams.job") == []


def test_a_plugin_connects_to_nothing_before_the_application_starts() -> None:
    """It can be made, and asked for its routes, where there is no database."""
    plugin = TidelogPlugin(TidelogConfig(database_url="postgresql://nobody@127.0.0.1:9/none", streams=[JOB]))
    config = plugin.on_app_init(AppConfig())
    assert len(config.route_handlers) == 5 and len(config.lifespan) == 1  # the WebSocket, and the reads
    assert Settings().database_url != "postgresql://nobody@127.0.0.1:9/none"
