"""`tidelog.testing` in an author's tests of their own Litestar application. Whole runs of pytest are in acceptance/."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from litestar import Litestar, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotAuthorizedException
from litestar.logging import LoggingConfig
from litestar.params import FromPath
from pydantic import BaseModel, field_validator
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from websockets.asyncio.client import connect

from tests.harness import eventually
from tidelog import ItemInvalidError, Stream, Streams, StreamUnknownError, TidelogConfig, TidelogPlugin
from tidelog.client import Client, Commit, Event, ServerRefusedError
from tidelog.composition import Tidelog
from tidelog.errors import ApplicationUnfitError, NotRecordedError, NotSettledError
from tidelog.store.partitions import Partition
from tidelog.store.retention import remove_commits
from tidelog.testing import ServedApp, serve
from tidelog.testing.application import app_on, plugins_of
from tidelog.testing.databases import PREFIX, Databases, database_url_of, name_of
from tidelog.testing.settling import settle

pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")

NOWHERE = "postgresql://nobody@127.0.0.1:9/none"
FORBIDDEN = "forbidden by a validator"

make_litestar = partial(Litestar, logging_config=LoggingConfig(configure_root_logger=False))


class Job(BaseModel):
    title: str

    @field_validator("title")
    @classmethod
    def _check(cls, title: str) -> str:
        if title == FORBIDDEN:
            raise ValueError(FORBIDDEN)
        return title


JOB = Stream("job", Job)


@post("/jobs/{user:str}/{id:str}")
async def start(
    user: FromPath[str], id: FromPath[str], streams: NamedDependency[Streams], fails: bool = False
) -> dict[str, Any]:
    job = await streams.job.set(user, id, {"title": id})
    await streams.job.send({"groupId": user}, {"type": "started", "data": {"id": id}})
    if fails:
        raise RuntimeError("the author's fault")
    return dict(job)


def make_app(database_url: str, **config: Any) -> Litestar:
    plugin = TidelogPlugin(TidelogConfig(database_url=database_url, streams=[JOB], path="/live", **config))
    return make_litestar([start], plugins=[plugin], path="/v1")


@pytest.fixture
def tidelog_app() -> Callable[[str], Litestar]:
    return make_app


async def rows(url: str, sql: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def test_a_subscriber_sees_what_the_application_did(client: Any, recorder: Any, settled: Any) -> None:
    """The changes and the event in their order, and the items that come of them."""
    async with recorder("job", "ada") as seen:
        assert (await client.post("/v1/jobs/ada/1")).json() == {"id": "1", "title": "1"}
        assert (await client.post("/v1/jobs/ada/2", params={"fails": True})).status_code == 500
        assert (await client.post("/v1/jobs/bob/1")).status_code == 201
        await settled()
        assert seen.snapshot == {}
        assert seen.items == {"1": {"id": "1", "title": "1"}}
        assert [type(message) for message in seen.messages] == [Commit, Event]
        assert [(change.op, change.id) for change in seen.changes] == [("create", "1")]
        assert [(event.type, event.data) for event in seen.events] == [("started", {"id": "1"})]


async def test_a_recording_begins_with_a_snapshot_and_may_be_of_one_item(streams: Any, recorder: Any) -> None:
    """What is there is no change; another item's changes are none of this one's."""
    await streams.job.set("ada", "1", {"title": "before"})
    async with recorder("job", "ada") as group, recorder("job", "ada", "1") as item:
        assert group.snapshot == item.snapshot == {"1": {"id": "1", "title": "before"}}
        async with streams.transaction() as together:
            await together.job.set("ada", "1", {"title": "after"})
            await together.job.set("ada", "2", {"title": "other"})
        await streams.job.delete("ada", "1")
        await group.until(lambda seen: len(seen.commits) == 2)
        await item.until(lambda seen: not seen.items)
    assert [[change.id for change in commit.changes] for commit in group.commits] == [["1", "2"], ["1"]]
    assert [change.op for change in item.changes] == ["update", "delete"]
    assert group.snapshot == {"1": {"id": "1", "title": "before"}}
    assert group.items == {"2": {"id": "2", "title": "other"}}


async def test_streams_are_checked_as_a_steps_are(streams: Any) -> None:
    """Validators of the class included, though nothing is served."""
    for title in ("titel", FORBIDDEN):
        with pytest.raises(ItemInvalidError):
            await streams.job.set("ada", "1", {"title": title} if title == FORBIDDEN else {title: ""})
    assert await streams.job.get_group("ada") == []


async def test_settled_waits_for_every_writer(
    tidelog_database_url: str, recorder: Any, settled: Any, streams: Any
) -> None:
    """SQL from outside, many at once, and nobody's transaction that is still open."""
    connection = await asyncpg.connect(tidelog_database_url)
    async with recorder("job", "ada") as seen, recorder("job", "bob") as other:
        async with connection.transaction():
            await connection.execute("insert into streams.job (group_id, id, data) values ('ada', 'open', $1)", "{}")
            await asyncio.gather(*(streams.job.set("ada", str(number), {"title": "x"}) for number in range(50)))
            await streams.job.send({"groupId": "bob"}, {"type": "ping", "data": None})
            await settled()
            assert len(seen.changes) == 50
            assert [event.type for event in other.events] == ["ping"]
        await settled()
        assert [change.id for change in seen.changes][50:] == ["open"]
    await connection.close()


REACTING = {
    "begin_step.py": """
config = {"type": "api", "name": "Begin", "method": "POST", "path": "/begin", "emits": ["begun"]}
async def handler(req, context):
    await context.emit({"topic": "begun", "data": {"title": "an event's"}})
    return {"status": 202}
""",
    "begun_step.py": """
config = {"type": "event", "name": "Begun", "subscribes": ["begun"], "emits": []}
async def handler(input, context):
    await context.streams.job.set("ada", "1", input)
""",
    "follow_step.py": """
config = {"type": "stream", "name": "Follow", "streamName": "job", "itemId": "1"}
async def handler(input, context):
    await context.streams.job.set("ada", "2", {"title": "a change's"})
""",
}


async def test_settled_waits_for_steps_that_react(tidelog_serve: Any, tmp_path: Path) -> None:
    """To events, to changes that these made, and what came of those."""
    for name, content in REACTING.items():
        (tmp_path / name).write_text(content)
    async with (
        tidelog_serve(partial(make_app, steps_dir=tmp_path)) as served,
        served.recorder("job", "ada") as seen,
    ):
        assert (await served.client.post("/v1/live/begin")).status_code == 202
        await served.settled()
        assert [item["title"] for item in seen.items.values()] == ["an event's", "a change's"]


async def test_settled_does_not_wait_for_what_retention_removed(
    tidelog_database_url: str, streams: Any, settled: Any
) -> None:
    """Its changes are there until their partition is dropped."""
    for title in ("old", "new"):
        await streams.job.set("ada", "1", {"title": title})
        await settled()
    connection = await asyncpg.connect(tidelog_database_url)
    everywhere = [Partition(0, 2**63 - 1, timedelta(0))]
    await remove_commits(connection, 0, older_than=timedelta(seconds=-60), commits_max=1, left_to=everywhere)
    assert await connection.fetchval("select count(*) from streams.change") == 2
    await settled()
    await connection.close()


class Lagging:
    """A feed that is behind the numbers: for the first looks at it, or for ever."""

    def __init__(self, tidelog: Tidelog, looks: float) -> None:
        self.database = tidelog.database
        self.checks = tidelog.checks
        self.workers, self.changes = tidelog.workers, tidelog.changes
        self._tidelog = tidelog
        self._looks = looks

    @property
    def position(self) -> int:
        self._looks -= 1
        return self._tidelog.position if self._looks < 0 else 0


async def test_settled_waits_for_the_feed_of_the_process(tidelog_served: ServedApp, streams: Any) -> None:
    """For subscribers that are no recorders."""
    (plugin,) = plugins_of(tidelog_served.app)
    await streams.job.set("ada", "1", {"title": "x"})
    lagging: Any = Lagging(plugin.tidelog, 3)
    await settle(lagging, [], 30)
    assert lagging.position == 1
    stuck: Any = Lagging(plugin.tidelog, math.inf)
    with pytest.raises(
        NotSettledError, match="for the feed of this process to reach commit 1; the feed is at commit 0"
    ):
        await settle(stuck, [], 0.1)


async def test_settled_waits_until_a_recorder_has_read_what_was_sent(
    tidelog_database_url: str, streams: Any, recorder: Any, settled: Any
) -> None:
    """A large message takes its time on the way; and what is more than waits for a socket is read from the log."""
    connection = await asyncpg.connect(tidelog_database_url)
    insert = "insert into streams.job (group_id, id, data) select 'ada', n, jsonb_build_object('title', $1::text) "
    async with recorder("job", "ada") as seen:
        await connection.execute(f"{insert} from generate_series(1, 5000) as n", "x" * 1000)
        await settled()
        assert len(seen.changes) == 5000
        for number in range(40):
            await streams.job.set("ada", f"more {number}", {"title": "x" * 100_000})
        await settled()
        assert len(seen.changes) == 5040
        await connection.execute(f"{insert} from generate_series(5001, 30000) as n", "x" * 1000)
        await settled()
        assert len(seen.items) == 30_040
    await connection.close()


async def test_settled_says_what_it_waits_for(tidelog_database_url: str, settled: Any, streams: Any) -> None:
    """Numbers that can't be given, as somebody has locked their table."""
    connection = await asyncpg.connect(tidelog_database_url)
    async with connection.transaction():
        await connection.execute("lock table streams.commit in share row exclusive mode")
        await streams.job.set("ada", "1", {"title": "x"})
        with pytest.raises(NotSettledError, match=r"waited 0\.3 s for commits to be numbered"):
            await settled(timeout_seconds=0.3)
    await settled()
    await connection.close()


async def test_a_recording_says_what_came_instead(streams: Any, recorder: Any, settled: Any) -> None:
    """The last thing that somebody wants to do then is to print it."""
    async with recorder("job", "ada") as seen:
        with pytest.raises(NotRecordedError, match=r"job/ada: waited 0\.01 s .* nothing came"):
            await seen.until(lambda seen: seen.events, timeout_seconds=0.01)
        await streams.job.set("ada", "1", {"title": "instead"})
        await settled()
        with pytest.raises(NotRecordedError, match="instead"):
            await seen.until(lambda seen: seen.events, timeout_seconds=0.01)
    with pytest.raises(NotRecordedError, match="has ended"):
        await seen.until(lambda seen: seen.events)


async def test_a_misspelt_stream_is_named(recorder: Any) -> None:
    """A server says only that access is denied."""
    with pytest.raises(StreamUnknownError, match=r"'jobs'.*job"):
        recorder("jobs", "ada")


async def test_what_a_test_leaves_open_is_ended_with_it(tidelog_database_url: str) -> None:
    """A recording, a WebSocket of its own, a request that would never be answered."""
    before = asyncio.all_tasks()
    started = asyncio.Event()

    @post("/wait")
    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    (plugin,) = plugins_of(make_app(tidelog_database_url))
    async with serve(make_litestar([wait], plugins=[plugin])) as served:
        await served.recorder("job", "ada").__aenter__()
        socket = await connect(f"{served.ws_url}/live", subprotocols=["tidelog.v1"], proxy=None)  # type: ignore[list-item]
        waiting = asyncio.create_task(served.client.post("/wait"))
        await started.wait()
    with pytest.raises(httpx.HTTPError):
        await waiting
    await socket.wait_closed()
    assert asyncio.all_tasks() <= before
    sessions = "select count(*) from pg_stat_activity where datname = current_database()"

    async def is_alone() -> bool:
        return await rows(tidelog_database_url, sessions) == [1]  # the one that asks

    await eventually(is_alone)  # some end by closing their sockets, which Postgres has yet to see


async def test_two_applications_in_a_test(
    tidelog_served: ServedApp, tidelog_database_url: str, tidelog_serve: Any
) -> None:
    """On one database they are two processes of a service; one on a database of its own sees nothing of theirs."""
    async with (
        serve(make_app(tidelog_database_url)) as same,
        tidelog_serve() as other,
        tidelog_served.recorder("job", "ada") as seen,
        same.recorder("job", "ada") as seen_by_same,
        other.recorder("job", "ada") as seen_by_other,
    ):
        await tidelog_served.client.post("/v1/jobs/ada/1")
        for served in (tidelog_served, same, other):
            await served.settled()
        assert [change.id for change in seen.changes] == [change.id for change in seen_by_same.changes] == ["1"]
        assert seen_by_other.messages == []


async def test_an_application_that_was_made_before_is_pointed_at_the_tests_database(tidelog_serve: Any) -> None:
    """As one is at the top of a module; again and again."""
    app = make_app(NOWHERE)
    for _ in range(2):
        async with tidelog_serve(app) as served, served.recorder("job", "ada") as seen:
            await served.client.post("/v1/jobs/ada/1")
            await served.settled()
            assert list(seen.items) == ["1"]


async def test_an_application_that_would_write_elsewhere_is_refused(tidelog_serve: Any) -> None:
    """A developer's own database, most likely."""

    async def session() -> None:
        raise AssertionError

    config = TidelogConfig(database_url=NOWHERE, streams=[JOB])
    two = [
        TidelogPlugin(config),
        TidelogPlugin(TidelogConfig(database_url=NOWHERE, path="/other", streams_dependency="other")),
    ]
    for app, cause in [
        (make_litestar([], plugins=two), "2 TidelogPlugins"),
        (
            make_litestar([], plugins=[TidelogPlugin(config)], dependencies={"db_session": Provide(session)}),
            "db_session",
        ),
        (lambda _: make_app(NOWHERE), "pass the URL on"),
        (lambda _: make_litestar([]), "pass the URL on"),
    ]:
        with pytest.raises(ApplicationUnfitError, match=cause):
            async with tidelog_serve(app):
                pass


async def test_several_plugins_are_told_apart_by_stream_or_path(
    tidelog_serve: Any, databases: Databases, tidelog_database_url: str
) -> None:
    """Each with a database; settled is all of them."""

    def make_two(database_url: str) -> Litestar:
        one = TidelogConfig(database_url=database_url, streams=[JOB, Stream("task", Job)], path="/{tenant:str}/live")
        other = TidelogConfig(
            database_url=tidelog_database_url, streams=[JOB], path="/other", streams_dependency="other"
        )

        @post("/jobs/{id:str}")
        async def start(id: FromPath[str], other: NamedDependency[Streams], streams: NamedDependency[Streams]) -> None:
            await other.job.set("ada", id, {"title": "there"})
            await streams.job.set("ada", id, {"title": "here"})
            await streams.task.set("ada", id, {"title": "here"})

        return make_litestar([start], plugins=[TidelogPlugin(one), TidelogPlugin(other)])

    async with tidelog_serve(make_two) as served:
        for ambiguous in (("job", None), ("task", None), ("job", "/nowhere")):
            with pytest.raises(ApplicationUnfitError, match=r"recorder\(\.\.\., path=\.\.\.\)"):
                served.recorder(ambiguous[0], "ada", path=ambiguous[1])
        async with (
            served.recorder("job", "ada", path="/acme/live") as here,
            served.recorder("task", "ada", path="/acme/live") as task,
            served.recorder("job", "ada", path="/other") as there,
        ):
            assert (await served.client.post("/jobs/1")).status_code == 201
            await served.settled()
            assert (here.items["1"]["title"], there.items["1"]["title"]) == ("here", "there")
            assert list(task.items) == ["1"]


async def test_a_recorder_says_who_it_is(tidelog_serve: Any) -> None:
    """By a token, where guards of the application ask for one."""

    def guard(connection: Any, _: Any) -> None:
        if connection.headers.get("authorization") != "Bearer let-me-in":
            raise NotAuthorizedException

    def make_guarded(database_url: str) -> Litestar:
        plugin = TidelogPlugin(TidelogConfig(database_url=database_url, streams=[JOB]))
        return make_litestar([], plugins=[plugin], guards=[guard])

    async with tidelog_serve(make_guarded) as served:
        with pytest.raises(ServerRefusedError):
            async with served.recorder("job", "ada"):
                pass
        async with served.recorder("job", "ada", token="let-me-in") as seen:
            assert seen.snapshot == {}


async def test_a_client_at_a_wrong_path_of_an_application_is_told_to_look_at_it(tidelog_served: ServedApp) -> None:
    """A framework refuses a handshake where no socket is without a word: the client says what to look at."""
    with pytest.raises(ServerRefusedError, match=r"HTTP 403. Is the path right\? .* TidelogConfig\(path=\.\.\.\)"):
        async with Client(f"{tidelog_served.ws_url}/v1/elsewhere", proxy=None):
            pass
    async with Client(f"{tidelog_served.ws_url}/v1/live", proxy=None):
        pass


async def prepare(database_url: str) -> None:
    """The author's own tables."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("create table orders (id text primary key)")
    await connection.close()


def make_app_with_sessions(database_url: str) -> Litestar:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda *_, **__: asyncpg.connect(database_url))

    async def session() -> AsyncGenerator[AsyncSession, None]:
        async with AsyncSession(engine) as session, session.begin():
            yield session
        await engine.dispose()

    @post("/orders/{id:str}")
    async def order(
        id: FromPath[str], db_session: NamedDependency[AsyncSession], streams: NamedDependency[Streams]
    ) -> None:
        await db_session.execute(text("insert into orders values (:id)"), {"id": id})
        await streams.job.set("orders", id, {"title": id})

    plugin = TidelogPlugin(TidelogConfig(database_url=database_url, streams=[JOB]))
    return make_litestar([order], plugins=[plugin], dependencies={"db_session": Provide(session)})


class TestWithTablesOfTheirOwn:
    """A class or a module of tests may be of another application."""

    @pytest.fixture
    def tidelog_prepare(self) -> Callable[[str], Any]:
        return prepare

    @pytest.fixture
    def tidelog_app(self) -> Callable[[str], Litestar]:
        return make_app_with_sessions

    @pytest.mark.parametrize("number", range(2))
    async def test_both_are_written_together(
        self, client: Any, recorder: Any, settled: Any, tidelog_database_url: str, number: int
    ) -> None:
        """In every test, each with tables of its own."""
        async with recorder("job", "orders") as seen:
            assert (await client.post("/orders/7")).status_code == 201
            await settled()
            assert await rows(tidelog_database_url, "select id from orders") == list(seen.items) == ["7"]


async def test_what_an_application_raises_at_its_start_is_raised(tidelog_database_url: str) -> None:
    """As it is, not as a server's log."""
    plugin = TidelogPlugin(TidelogConfig(database_url=tidelog_database_url, streams=[Stream("other", Job)]))
    with pytest.raises(Exception, match=r"other") as raised:
        async with serve(make_litestar([], plugins=[plugin])):
            pass
    assert not isinstance(raised.value, ExceptionGroup)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    """A server would leave it out, and the test would fail for another reason."""
    (tmp_path / "job_stream.py").write_text("config = {'name': 'job'\n")
    config = TidelogConfig(database_url=NOWHERE, steps_dir=tmp_path)
    with pytest.raises(ApplicationUnfitError, match=r"job_stream\.py: line 1: SyntaxError"):
        app_on(lambda _: make_litestar([], plugins=[TidelogPlugin(config)]), NOWHERE)


async def test_a_killed_runs_databases_are_dropped_by_the_next(postgres_url: str) -> None:
    """And those of a run that lives are not: a session says so."""
    databases = Databases(postgres_url)
    killed = await databases.create(database_url_of(postgres_url, f"{PREFIX}1_abcdef_1"))
    async with databases.run():
        living = await databases.create()
        async with Databases(postgres_url).run():
            names = await rows(postgres_url, "select datname from pg_database")
        assert name_of(killed) not in names
        assert name_of(living) in names
        await databases.drop(living)


async def test_a_template_is_cloned_whoever_has_not_left_it(databases: Databases) -> None:
    """As what an author prepares may do; Postgres copies no database that somebody uses."""
    template = await databases.create()
    left = await asyncpg.connect(template)
    await databases.close_to_all(template)
    await databases.drop(await databases.create(template=name_of(template)))
    assert left.is_closed()
    await databases.drop(template)
