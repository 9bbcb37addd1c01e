"""Subscriptions that can't be served: their clients are told, readiness names it, all others are served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from sqlalchemy.engine import make_url
from websockets.exceptions import ConnectionClosed

from tests.conftest import server_starter
from tests.harness import RUN, Databases, Server, Sql, StepsFolder, Subscriber, eventually, seen_of
from tests.integration.sequencer_fixtures import connected
from tests.peer import Peer, peer
from tidelog.client import Live, Snapshot, connection

STREAM = 'config = {{"name": "{}", "schema": {{"type": "object"}}, "baseConfig": {{"storageType": "default"}}}}'
STREAMS = ("dropped", "renamed", "revoked", "altered", "locked", "large", "fine")
SUBSCRIPTIONS_MAX = 6
ROLE = f"tidelog_test_{RUN}"

SIZE_MAX_BYTES = 2_000_000  # of a snapshot
PAD = 10_000
FILL = (
    "insert into streams.large (group_id, id, data) "
    f"select $1, i::text, jsonb_build_object('pad', repeat('x', {PAD})) from generate_series(1, $2::int) i"
)

# How a stream's table is made unreadable, and readable again. The statements are the database owner's.
BREAKS = {
    "dropped": ("alter table streams.dropped set schema public", "alter table public.dropped set schema streams"),
    "renamed": (
        "alter table streams.renamed rename column created_at to made_at",
        "alter table streams.renamed rename column made_at to created_at",
    ),
    "revoked": (f"revoke select on streams.revoked from {ROLE}", f"grant select on streams.revoked to {ROLE}"),
}


@pytest.fixture(scope="module")
async def server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One that is not patient, with the rights of a role that is no superuser."""
    url = await databases.create()
    async with connected(url) as sql:
        await sql.execute(f"create role {ROLE} login")
        await sql.execute(f'alter database "{make_url(url).database}" owner to {ROLE}')
    role_url = make_url(url).set(username=ROLE).render_as_string(hide_password=False)
    steps = StepsFolder(tmp_path_factory.mktemp("steps"))
    for name in STREAMS:
        steps.write(f"{name}_stream.py", STREAM.format(name))
    try:
        async with server_starter(role_url) as start:
            yield await start(
                steps.path,
                TIDELOG_SUBSCRIBE_PATIENCE_SECONDS="0.3",
                TIDELOG_SOCKET_SUBSCRIPTIONS_MAX=str(SUBSCRIPTIONS_MAX),
                TIDELOG_SYNC_SIZE_MAX_BYTES=str(SIZE_MAX_BYTES),
                TIDELOG_SNAPSHOT_SIZE_MAX_BYTES=str(SIZE_MAX_BYTES),
            )
    finally:
        await databases.drop(url)
        async with connected(databases.server_url) as sql:
            await sql.execute(f"drop role {ROLE}")


@pytest.fixture
async def sql(server: Server, databases: Databases) -> AsyncIterator[asyncpg.Connection[Any]]:
    """The administrator's."""
    url = make_url(databases.server_url).set(database=make_url(server.database_url).database)
    async with connected(url.render_as_string(hide_password=False)) as connection:
        yield connection


async def ready(server: Server) -> httpx.Response:
    async with server.http() as http:
        return await http.get("/health/ready")


async def write(sql: asyncpg.Connection[Any], stream: str, id: str, group: str = "g") -> None:
    await sql.execute(f"insert into streams.{stream} (group_id, id, data) values ($1, $2, '{{}}')", group, id)


@asynccontextmanager
async def broken(sql: asyncpg.Connection[Any], stream: str) -> AsyncIterator[None]:
    breaking, mending = BREAKS[stream]
    await sql.execute(breaking)
    try:
        yield
    finally:
        await sql.execute(mending)


@asynccontextmanager
async def database_away(server: Server, sql: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    """For the server, which has no connection any more, and gets none."""
    await sql.execute(f"alter role {ROLE} connection limit 0")
    try:
        await sql.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", ROLE)
        await eventually(lambda: is_unready(server))
        yield
    finally:
        await sql.execute(f"alter role {ROLE} connection limit -1")
    await server.wait_until_ready()


async def is_unready(server: Server) -> bool:
    return (await ready(server)).json()["checks"]["reader"] != "ok"


async def closing_code(subscriber: Subscriber) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        await subscriber.next()
    return None if closed.value.rcvd is None else closed.value.rcvd.code


async def refused(one: Peer, stream: str, id: str = "s", group: str = "g") -> dict[str, Any]:
    await one.subscribe(id, group, stream=stream)
    return (await one.until("error"))[-1]


async def served(one: Peer, stream: str, id: str = "s", group: str = "g", **parts: Any) -> None:
    await one.subscribe(id, group, stream=stream, **parts)
    await one.until("live")


@pytest.mark.parametrize("stream", BREAKS)
async def test_a_stream_that_can_not_be_read_ends_its_own_subscriptions(server: Server, sql: Sql, stream: str) -> None:
    """Both dialects are told; the others are served, and the process stays ready, and says which stream it is."""
    async with peer(server) as one, Subscriber.connect(server) as motia:
        await served(one, "fine", "fine")
        async with broken(sql, stream):
            await motia.join(stream, "g")
            error = await refused(one, stream)
            assert (error["code"], error["subscription"]) == ("stream_unreadable", "s")
            type, data = seen_of(await motia.next())
            assert (type, data["code"]) == ("error", "stream_unreadable")
            health = await ready(server)
            assert health.status_code == 200
            assert health.json()["checks"]["subscriptions"] == "ok"
            assert f"stream {stream}" in health.json()["warnings"]
            await motia.view("fine", "g")
            await write(sql, "fine", stream)
            assert (await one.until("commit"))[-1]["changes"][0]["id"] == stream
        await served(one, stream)
        assert f"stream {stream}" not in (await ready(server)).json().get("warnings", {})
        await motia.view(stream, "g")
    log = [line for line in server.log().splitlines() if f"subscriptions to {stream!r}" in line]
    assert [" over: " in line for line in log] == [False, True], log


async def test_a_refused_subscription_leaves_its_name_and_its_place(server: Server, sql: Sql) -> None:
    """Whenever it was refused: the client may subscribe again by the same name, as often as it wants."""
    await sql.execute(FILL, "huge", SIZE_MAX_BYTES // PAD + 1)
    async with peer(server) as one:
        for number in range(SUBSCRIPTIONS_MAX - 1):
            await served(one, "fine", f"other {number}")
        for _ in range(SUBSCRIPTIONS_MAX + 1):
            assert (await refused(one, "large", group="huge"))["code"] == "group_too_large"
            assert (await refused(one, "unknown"))["code"] == "STREAM_ACCESS_DENIED"
        async with broken(sql, "dropped"):
            assert (await refused(one, "dropped"))["code"] == "stream_unreadable"
        await served(one, "dropped")
        assert (await refused(one, "fine", "third"))["code"] == "too_many_subscriptions"
    async with Subscriber.connect(server) as motia:
        for number in range(SUBSCRIPTIONS_MAX + 1):
            await motia.join("large", "huge", subscription=f"s{number}")
            assert seen_of(await motia.next())[1]["code"] == "group_too_large"
        for stream in ("fine", "dropped"):
            await motia.view(stream, "g")


@pytest.mark.parametrize(
    "alteration", ["id type varchar(100)", "id type text", "version type numeric"], ids=["id", "and back", "version"]
)
async def test_a_column_whose_type_was_altered_is_read_all_the_same(server: Server, sql: Sql, alteration: str) -> None:
    """By every connection that remembers it as it was, without a word."""
    async with peer(server) as one, Subscriber.connect(server) as motia:
        await served(one, "altered")
        await motia.view("altered", "g")
        await sql.execute(f"alter table streams.altered alter column {alteration}")
        await one.subscribe("again", "g", stream="altered")
        snapshot, *_ = await one.until("live")
        view = await motia.view("altered", "other")
        assert snapshot["type"] == "snapshot"
        async with connected(server.database_url) as writer:  # its trigger remembers nothing
            await write(writer, "altered", alteration, "other")
            await motia.until_mark(writer, view)
        assert alteration in view.items
    assert "'altered'" not in server.log()
    assert (await ready(server)).json().get("warnings") is None


async def test_a_table_that_somebody_has_locked_holds_up_only_its_own(server: Server, sql: Sql) -> None:
    """Its subscribers are told to come again, by what their clients understand; afterwards they are served."""
    async with peer(server) as one, Subscriber.connect(server) as motia:
        async with sql.transaction():
            await sql.execute("lock table streams.locked")
            for number in range(5):  # more than there are connections for snapshots
                await motia.join("locked", f"g{number}")
            await served(one, "fine", "fine")
            error = await refused(one, "locked")
            assert error["code"] == "subscription_unavailable"
            assert await closing_code(motia) == 1011
            assert (await ready(server)).status_code == 200
        await served(one, "locked")


async def test_the_python_client_asks_again_for_what_may_pass(
    server: Server, sql: Sql, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its consumer waits, as when the connection is lost, and the others go on."""
    monkeypatch.setattr(connection, "DELAY_MAX_SECONDS", 0.1)
    async with connection.Client(server.ws_url) as client, client.subscribe("fine", "g") as fine:
        async with sql.transaction():
            await sql.execute("lock table streams.locked")
            messages = aiter(client.subscribe("locked", "g"))
            first = asyncio.ensure_future(anext(messages))
            await eventually(lambda: "can't be read at present" in caplog.text)
            assert isinstance(await anext(aiter(fine)), Snapshot)
            assert not first.done()
        assert isinstance(await first, Snapshot)
        assert isinstance(await anext(messages), Live)


async def test_no_connection_to_be_had_is_told(server: Server, sql: Sql) -> None:
    """It concerns every stream: the process is not ready until subscriptions can be had again."""
    async with peer(server) as one, Subscriber.connect(server) as motia:
        await sql.execute(f"alter role {ROLE} connection limit 1")
        end = "select bool_and(not pg_terminate_backend(pid)) is null from pg_stat_activity where usename = $1 "
        await eventually(lambda: sql.fetchval(end + "and application_name = 'tidelog archive'", ROLE))
        try:
            error = await refused(one, "fine")
            assert error["code"] == "subscription_unavailable"
            await motia.join("fine", "g")
            assert await closing_code(motia) == 1011
            health = await ready(server)
            assert health.status_code == 503
            assert health.json()["checks"]["subscriptions"] == "TooManyConnectionsError"
        finally:
            await sql.execute(f"alter role {ROLE} connection limit -1")
        await served(one, "fine")
        assert (await ready(server)).json()["checks"]["subscriptions"] == "ok"


async def test_while_the_whole_database_is_away_everybody_waits(server: Server, sql: Sql) -> None:
    """For longer than anything else is waited for; and then they are served, on connections that stay."""
    begin = len(server.log())
    async with peer(server) as one, Subscriber.connect(server) as motia:
        async with database_away(server, sql):
            assert (await one.next())["feed"] == "interrupted"
            await one.subscribe("s", "g", stream="fine")
            view = await motia.watch("fine", "g")
            await eventually(lambda: server.log().count("trying again", begin) >= 5)  # pauses of 0.1 s, 0.2 s, ...
        await motia.until(lambda _: view.is_synced)
        assert "error" not in [frame["type"] for frame in await one.until("live")]
    assert "can't be served" not in server.log()[begin:]


async def test_the_status_is_told_when_a_connection_has_drained(server: Server, sql: Sql) -> None:
    """One that took nothing when the feed was interrupted learns of it when it does, though no commit comes."""
    async with peer(server) as one, peer(server) as other:
        await served(one, "large", group="wide")
        await served(other, "large", group="wide", item="1")
        one.socket.transport.pause_reading()
        # More than the network takes, and less than what is a commit too large to be carried.
        await sql.execute(FILL.replace("10000", "150000"), "wide", 100)
        await other.until("commit")
        async with database_away(server, sql):
            assert (await other.until("status"))[-1]["feed"] == "interrupted"
            one.socket.transport.resume_reading()
            commit, status = await one.until("status")
            assert (status["feed"], status["position"]) == ("interrupted", commit["position"])
        assert (await one.until("status"))[-1]["feed"] == "live"


async def test_a_full_temporary_folder_is_told(server: Server, sql: Sql) -> None:
    """Of snapshots that don't fit in memory; with room again they are served."""
    await sql.execute(FILL, "g", SIZE_MAX_BYTES // PAD // 2)
    process = psutil.Process(server.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    async with peer(server) as one:
        process.rlimit(psutil.RLIMIT_FSIZE, (500_000, before[1]))
        try:
            assert (await refused(one, "large"))["code"] == "subscription_unavailable"
            health = await ready(server)
            assert health.status_code == 503
            assert health.json()["checks"]["subscriptions"] == "OSError"
            assert "no snapshot fits in the temporary folder" in server.log()
        finally:
            process.rlimit(psutil.RLIMIT_FSIZE, before)
        await served(one, "large")
        assert (await ready(server)).status_code == 200
