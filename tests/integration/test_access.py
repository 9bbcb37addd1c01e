"""Who may connect, subscribe and call: on a whole server, in both dialects and over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close

import tidelog
from tests.conftest import server_starter
from tests.harness import FRAME_TIMEOUT_SECONDS, ROOT, Databases, Server, Subscriber, connect_sql, eventually
from tests.peer import Peer
from tidelog.client import Client, Commit
from tidelog.errors import ServerRefusedError

STEPS = ROOT / "tests/acceptance/access_steps"
LIMIT_SECONDS = 1  # of authors' functions: what hangs is to be found out soon
DENIED = {"code": "STREAM_ACCESS_DENIED", "message": "Access denied"}
NO_SUCH_STREAM = "there is no such stream, or it is not for you"
TABLES = """
    create table if not exists member (grp text, subject text);
    create table if not exists noted (nr serial, what text, grp text, subject text);
"""

Sql = Any  # asyncpg's connection, which is generic in the stubs only


@pytest.fixture(scope="module")
async def servers(databases: Databases) -> AsyncIterator[tuple[Server, Server]]:
    """Two processes on one database, whose streams have rules."""
    url = await databases.create()
    sql = await asyncpg.connect(url)
    await sql.execute(TABLES)
    await sql.close()
    limit = {"TIDELOG_ACCESS_TIMEOUT_SECONDS": str(LIMIT_SECONDS), "TIDELOG_LOG_ACCESS": "true"}
    try:
        async with server_starter(url) as start:
            yield await start(STEPS, **limit), await start(STEPS, **limit)
    finally:
        await databases.drop(url)


@pytest.fixture
def server(servers: tuple[Server, Server]) -> Server:
    return servers[0]


@pytest.fixture
async def sql(server: Server) -> AsyncIterator[Sql]:
    connection = await connect_sql(server.database_url)
    yield connection
    await connection.execute("delete from member; delete from noted")
    await connection.close()


@asynccontextmanager
async def tidelog_peer(server: Server, token: str | None = None, **options: Any) -> AsyncIterator[Peer]:
    protocols: Any = ["tidelog.v1", *(["Authorization", token] if token else [])]
    options = {"proxy": None, "max_size": None, "open_timeout": FRAME_TIMEOUT_SECONDS, **options}
    async with connect(server.ws_url, subprotocols=protocols, **options) as socket:
        assert socket.subprotocol == "tidelog.v1"
        yield Peer(socket)


async def status_of(server: Server, path: str = "/", **options: Any) -> int:
    """Of a handshake: 101 if it is taken."""
    try:
        async with connect(server.ws_url + path, proxy=None, open_timeout=FRAME_TIMEOUT_SECONDS, **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def answer(subscriber: Subscriber, stream: str, group: str, item: str | None = None) -> Any:
    """What a join is answered: the data of its sync, or its error."""
    await subscriber.join(stream, group, item)
    frame = await subscriber.next()
    assert (frame["streamName"], frame["groupId"]) == (stream, group)
    return frame["event"]["data"] if frame["event"]["type"] == "sync" else frame["event"]["event"]["data"]


async def closed(socket: ClientConnection) -> Close:
    """Wait until the server closes it."""
    async with asyncio.timeout(FRAME_TIMEOUT_SECONDS):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed as end:
            assert end.rcvd is not None
            return end.rcvd


async def write(sql: Sql, group: str) -> None:
    """Another item of the stream `secret`."""
    insert = "insert into streams.secret (group_id, id, data) values ($1, gen_random_uuid()::text, '{}')"
    await sql.execute(insert, group)


# Authentication.


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("/", {"subprotocols": ["Authorization", "TOKEN"]}),
    ("/", {"subprotocols": ["tidelog.v1", "Authorization", "TOKEN"]}),
    ("/", {"additional_headers": {"Authorization": "Bearer TOKEN"}}),
    ("/", {"additional_headers": {"authorization": "bearer   TOKEN"}}),
    ("/?authToken=TOKEN", {}),
    ("/any/path?a=b&authToken=TOKEN", {}),
]


def way(number: int, token: str) -> tuple[str, dict[str, Any]]:
    path, options = WAYS[number]
    told = json.loads(json.dumps(options).replace("TOKEN", token))
    return path.replace("TOKEN", token), told


@pytest.mark.parametrize("number", range(len(WAYS)))
async def test_a_token_is_taken_from_where_clients_put_it(server: Server, number: int) -> None:
    """And one that isn't known is refused before the upgrade."""
    path, options = way(number, "token-of-ada")
    assert await status_of(server, path, **options) == 101
    path, options = way(number, "token-of-nobody")
    assert await status_of(server, path, **options) == 401


async def test_a_refused_handshake_says_so_as_http_does(server: Server) -> None:
    """With a code for programs, and the scheme that is expected."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(server.ws_url, subprotocols=["Authorization", "token-of-nobody"], proxy=None)  # type: ignore[list-item]
    response = refused.value.response
    assert response.headers["www-authenticate"] == "Bearer"
    assert json.loads(response.body)["error"] == {"code": "unauthorized", "message": "nobody has this token"}


async def test_two_different_tokens_are_none(server: Server) -> None:
    """A proxy may have looked at the other one."""
    headers = {"Authorization": "Bearer token-of-eve"}
    assert await status_of(server, "/?authToken=token-of-ada", additional_headers=headers) == 401
    assert await status_of(server, "/?authToken=token-of-ada&authToken=token-of-eve") == 401
    assert await status_of(server, "/?authToken=token-of-eve", additional_headers=headers) == 101
    async with server.http() as http:
        twice = [("Authorization", "Bearer token-of-ada"), ("Authorization", "Bearer token-of-eve")]
        assert (await http.get("/who", headers=twice)).status_code == 401


@pytest.mark.parametrize("token", ["token-that-breaks", "token-that-hangs"])
async def test_an_authentication_that_fails_opens_nothing(server: Server, token: str) -> None:
    """Neither a socket nor a step: 503, with when to come back."""
    assert await status_of(server, f"/?authToken={token}") == 503
    async with server.http() as http:
        for method, path in (("GET", "/who"), ("POST", "/known"), ("POST", "/through")):
            answer = await http.request(method, path, headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["error"]["code"] == "authentication_unavailable"


async def test_steps_know_who_asks(server: Server) -> None:
    """In req and in context, async and plain; nobody is None."""
    async with server.http() as http:
        ada = {"Authorization": "Bearer token-of-ada"}
        assert (await http.get("/who")).json() == [None, None]
        assert (await http.get("/who", headers=ada)).json() == [{"subject": "ada"}] * 2
        assert (await http.get("/who?authToken=token-of-eve")).json() == [{"subject": "eve"}] * 2
        assert (await http.get("/who", headers={"Authorization": "Basic YTpi"})).json() == [None, None]
        assert (await http.post("/known", headers=ada)).json() == {"subject": "ada"}


async def test_a_step_that_needs_somebody_answers_nobody(server: Server) -> None:
    """401 before its body is read, also for HEAD and with a wrong token."""
    async with server.http() as http:
        for headers in ({}, {"Authorization": "Bearer token-of-nobody"}, {"Authorization": "Bearer"}):
            refused = await http.post("/known", content=b"{", headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["error"]["code"] == "unauthorized"
        assert (await http.get("/who", headers={"Authorization": "Bearer token-of-nobody"})).status_code == 401


async def test_middleware_is_called_from_the_outside_in(server: Server) -> None:
    """It changes what goes in, sees what comes out, or answers itself; guards decide before."""
    async with server.http() as http:
        ada = {"Authorization": "Bearer token-of-ada"}
        answer = await http.post("/through", json=["body"], headers=ada)
        assert (answer.json(), answer.headers["x-outer"]) == (["body", "outer", "inner"], "yes")
        assert (await http.post("/through?answer=early", json=[], headers=ada)).status_code == 418
        for headers in ({}, {"Authorization": "Bearer token-of-eve"}):
            refused = await http.post("/through", json=[], headers=headers)
            assert (refused.status_code, refused.json()["error"]["message"]) == (403, "only ada")


async def test_no_token_is_in_the_log(server: Server) -> None:
    """Whatever comes of it, in whatever part of the request."""
    tokens = ["token-of-ada", "token-of-nobody", "token-that-breaks"]
    async with server.http() as http:
        for token in tokens:
            for number in range(len(WAYS)):
                path, options = way(number, token)
                await status_of(server, path, **options)
            await http.get(f"/who?authToken={token}")
            await http.get("/who", headers={"Authorization": f"Bearer {token}"})
            await http.get(f"/nothing/here?authToken={token}")
    async with tidelog_peer(server) as peer:
        for token in tokens:
            await peer.say("auth", token=token)
            await peer.next()
    for token in tokens:
        assert token not in server.log()
    assert any(record["message"] == "socket refused" for record in server.records("tidelog.access"))


# Streams.


async def test_a_rule_lets_in_whom_it_names_and_nobody_else(server: Server, sql: Sql) -> None:
    """In Motia's dialect; async and plain; a group and an item."""
    await sql.execute(
        "insert into streams.secret (group_id, id, data) values ('ada', 'a', '{}') on conflict do nothing"
    )
    for token, may in (("token-of-ada", True), ("token-of-eve", False), (None, False)):
        async with Subscriber.connect(server, token) as subscriber:
            assert await answer(subscriber, "secret", "ada") == ([{"id": "a"}] if may else DENIED)
            assert await answer(subscriber, "secret", "ada", "a") == ({"id": "a"} if may else DENIED)
            assert await answer(subscriber, "plainSecret", "ada") == ([] if may else DENIED)
            assert await answer(subscriber, "open", "ada") == []


async def test_the_same_in_the_other_dialect(server: Server, sql: Sql) -> None:
    """Also with a position; and the name of what was denied is free again. Words say that it may be misspelt."""
    async with tidelog_peer(server, "token-of-eve") as eve, tidelog_peer(server, "token-of-ada") as ada:
        await ada.subscribe("s", "ada", stream="secret")
        live = (await ada.until("live"))[-1]
        for place in ({}, {"since": 0, "epoch": live["epoch"]}, {"item": "a"}):
            await eve.subscribe("s", "ada", stream="secret", **place)
            error = await eve.next()
            assert (error["type"], error["subscription"]) == ("error", "s")
            assert (error["code"], error["message"]) == (DENIED["code"], NO_SUCH_STREAM)
        await eve.subscribe("s", "ada", stream="not-declared")
        error = await eve.next()
        assert (error["code"], error["message"]) == (DENIED["code"], NO_SUCH_STREAM)
        await eve.subscribe("s", "eve", stream="secret")
        assert (await eve.next())["type"] == "snapshot"


@pytest.mark.parametrize("group", ["raises", "hangs"])
async def test_a_rule_that_fails_denies_as_if_there_were_no_stream(server: Server, group: str) -> None:
    """The words are the same, to the byte but for the name."""
    async with Subscriber.connect(server, "token-of-root") as subscriber:
        frames = []
        for stream in ("broken", "absent"):
            await subscriber.join(stream, group)
            frames.append(json.dumps((await subscriber.next())["event"]))
        assert frames[0] == frames[1]
    assert "secret things" not in "".join(frames)


async def test_those_that_are_asked_for_do_not_hold_up_the_others(server: Server) -> None:
    """A join behind one whose rule hangs is answered before it."""
    async with Subscriber.connect(server, "token-of-ada") as subscriber:
        await subscriber.join("broken", "hangs")
        await subscriber.join("secret", "ada")
        await subscriber.join("open", "g")
        order = [(await subscriber.next())["streamName"] for _ in range(3)]
    assert order[-1] == "broken"


async def test_a_join_that_is_taken_back_while_it_is_asked_for_is_never_let_in(server: Server, sql: Sql) -> None:
    """Nor is the one whose name it had answered twice."""
    async with Subscriber.connect(server, "token-of-ada") as subscriber:
        for _ in range(50):
            name = await subscriber.join("secret", "ada")
            await subscriber.leave("secret", "ada", None, name)
        last = await subscriber.join("secret", "ada", None, name)
        assert last == name
        assert (await subscriber.next())["event"]["type"] == "sync"
        await write(sql, "ada")
        assert (await subscriber.next())["event"]["type"] == "create"


async def notes(sql: Sql) -> list[tuple[str, str]]:
    return [(row["what"], row["grp"]) for row in await sql.fetch("select what, grp from noted order by nr")]


async def test_joins_and_leaves_are_told_once_each(server: Server, sql: Sql) -> None:
    """By leaving, by joining anew under the same name, and by going away."""
    async with Subscriber.connect(server, "token-of-root") as subscriber:
        name = await subscriber.join("noted", "one")
        await subscriber.next()
        await subscriber.leave("noted", "one", None, name)
        name = await subscriber.join("noted", "two")
        await subscriber.next()
        await subscriber.join("noted", "three", None, name)
        await subscriber.next()
    both = [(what, group) for group in ("one", "two", "three") for what in ("join", "leave")]
    await eventually(lambda: notes_are(sql, both))


async def notes_are(sql: Sql, expected: list[tuple[str, str]]) -> bool:
    return sorted(await notes(sql)) == sorted(expected)


async def test_a_join_that_denies_or_fails_is_no_join(server: Server, sql: Sql) -> None:
    """So there is no leave."""
    async with Subscriber.connect(server, "token-of-root") as subscriber:
        for item in ("forbidden", "broken"):
            assert await answer(subscriber, "noted", "g", item) == DENIED
        assert await answer(subscriber, "noted", "g", "allowed") is None
    await eventually(lambda: notes_are(sql, [("join", "g")] * 3 + [("leave", "g")]))


async def test_joins_and_leaves_get_a_context_as_motias_do(server: Server, sql: Sql) -> None:
    """With three parameters; async and plain. What they write is seen, and whoever goes is gone."""
    async with Subscriber.connect(server) as watcher, Subscriber.connect(server, "token-of-ada") as subscriber:
        view = await watcher.view("open", "present")
        name = await subscriber.join("present", "ada")
        assert (await subscriber.next())["event"]["type"] == "sync"
        await watcher.until_mark(sql, view)
        assert view.items == {"ada": {"id": "ada", "who": "ada"}}
        await subscriber.leave("present", "ada", None, name)

        async def is_gone() -> bool:
            await watcher.until_mark(sql, view)
            return view.items == {}

        await eventually(is_gone)
    await eventually(lambda: any(one.get("data") == {"who": "ada"} for one in server.records("tidelog.steps")))


@pytest.mark.parametrize("item", ["raises", "hangs"])
async def test_of_a_join_that_fails_nothing_is_stored(server: Server, sql: Sql, item: str) -> None:
    """Neither of one that goes on after its time, though it was cancelled."""
    async with Subscriber.connect(server) as watcher, Subscriber.connect(server, "token-of-ada") as subscriber:
        view = await watcher.view("open", "present")
        assert await answer(subscriber, "present", "ada", item) == DENIED
        await watcher.until_mark(sql, view)
        assert (view.items, view.seen) == ({}, [])
        assert await answer(subscriber, "present", "ada", "denied") == DENIED
        await watcher.until_mark(sql, view)
        assert [kind for kind, _ in view.seen] == ["create"]  # as what a step answers, whatever it is
    await sql.execute("delete from streams.open where group_id = 'present'")


async def test_who_goes_while_a_join_is_told_is_told_to_have_left(server: Server, sql: Sql) -> None:
    """Nobody stays present for ever."""
    for _ in range(20):
        async with Subscriber.connect(server, "token-of-root") as subscriber:
            await subscriber.join("noted", "quick")

    async def is_even() -> bool:
        found = await notes(sql)
        return found.count(("join", "quick")) == found.count(("leave", "quick"))

    await eventually(is_even)


# Asking again.


async def let_in(sql: Sql, group: str, subject: str) -> None:
    await sql.execute("insert into member values ($1, $2)", group, subject)


async def put_out(sql: Sql, group: str, hint: str) -> None:
    """In one transaction: whoever is told, finds it."""
    async with sql.transaction():
        await sql.execute("delete from member where grp = $1", group)
        await sql.execute("select pg_notify('tidelog_recheck', $1)", hint)


@pytest.mark.parametrize(
    "hint", ["", "{}", '{"subject": "eve"}', '{"stream": "secret", "group": "club"}', '{"group": "club"}']
)
async def test_what_is_taken_away_ends_at_once_in_every_process(
    servers: tuple[Server, Server], sql: Sql, hint: str
) -> None:
    """In both dialects; and nothing of what comes after."""
    here, there = servers
    await let_in(sql, "club", "eve")
    async with Subscriber.connect(here, "token-of-eve") as motia, tidelog_peer(there, "token-of-eve") as own:
        assert isinstance(await answer(motia, "secret", "club"), list)
        await own.subscribe("s", "club", stream="secret")
        await own.until("live")
        await put_out(sql, "club", hint)
        frame = await motia.next()
        assert frame["event"]["event"]["data"] == DENIED
        assert (await own.next())["code"] == DENIED["code"]
        await write(sql, "club")
        await motia.join("open", "g")
        assert (await motia.next())["streamName"] == "open"
        await own.subscribe("s", "eve", stream="secret")
        assert (await own.next())["type"] == "snapshot"


@pytest.mark.parametrize(
    "said", ["subject => 'eve'", "stream => 'secret', group_id => 'club'", "group_id => 'club'", "", "null, 'secret'"]
)
async def test_sql_says_so_by_a_function(servers: tuple[Server, Server], sql: Sql, said: str) -> None:
    """In the transaction that takes the right away, and in every process."""
    await let_in(sql, "club", "eve")
    async with tidelog_peer(servers[0], "token-of-eve") as here, tidelog_peer(servers[1], "token-of-eve") as there:
        for peer in (here, there):
            await peer.subscribe("s", "club", stream="secret")
            await peer.until("live")
        async with sql.transaction():
            await sql.execute(f"select streams.recheck({said})")
            await sql.execute("delete from member where grp = 'club'")
        for peer in (here, there):
            assert (await peer.next())["code"] == DENIED["code"]


async def test_a_step_says_so_in_its_transaction(servers: tuple[Server, Server], sql: Sql) -> None:
    """By its context; heard in every process."""
    await let_in(sql, "club", "eve")
    async with tidelog_peer(servers[1], "token-of-eve") as there, servers[0].http() as http:
        await there.subscribe("s", "club", stream="secret")
        await there.until("live")
        assert (await http.post("/put-out/club")).status_code == 200
        assert (await there.next())["code"] == DENIED["code"]


@pytest.mark.parametrize("said", [{"subject": "eve"}, {"stream": "secret", "group": "club"}, {}])
async def test_a_program_that_is_no_server_says_so(
    servers: tuple[Server, Server], sql: Sql, said: dict[str, str]
) -> None:
    """Heard in every process; a slip of the pen is an error."""
    await let_in(sql, "club", "eve")
    async with (
        tidelog_peer(servers[0], "token-of-eve") as here,
        tidelog_peer(servers[1], "token-of-eve") as there,
        tidelog.open(servers[0].database_url) as streams,
    ):
        for peer in (here, there):
            await peer.subscribe("s", "club", stream="secret")
            await peer.until("live")
        await sql.execute("delete from member where grp = 'club'")
        await streams.revoke(**said)
        for peer in (here, there):
            assert (await peer.next())["code"] == DENIED["code"]
        with pytest.raises(tidelog.StreamUnknownError, match="no stream is named 'secrets'"):
            await streams.revoke(stream="secrets")
        with pytest.raises(tidelog.KeyInvalidError):
            await streams.revoke(group="\0")


@pytest.mark.parametrize("subject", ["eve", "eve\0", "\ud800", None])
async def test_a_program_says_so_in_its_transaction(server: Server, sql: Sql, subject: str | None) -> None:
    """And of a subject that can't be said to the database, it says so of all."""
    await let_in(sql, "club", "eve")
    async with tidelog_peer(server, "token-of-eve") as peer, tidelog.open(server.database_url) as streams:
        await peer.subscribe("s", "club", stream="secret")
        await peer.until("live")
        await sql.execute("delete from member where grp = 'club'")
        async with streams.transaction() as together:
            await together.revoke(subject=subject)
        assert (await peer.next())["code"] == DENIED["code"]


@pytest.mark.parametrize("hint", ['{"subject": "ada"}', '{"stream": "open"}', '{"group": "other"}', "x", '{"deny": 1}'])
async def test_what_is_said_of_others_or_is_no_hint_does_nothing(server: Server, sql: Sql, hint: str) -> None:
    """Anybody can send a NOTIFY; all it can do is have rules asked."""
    await let_in(sql, "club", "eve")
    async with Subscriber.connect(server, "token-of-eve") as subscriber:
        view = await subscriber.view("secret", "club")
        await sql.execute("select pg_notify('tidelog_recheck', $1)", hint)
        await subscriber.until_mark(sql, view)
        assert view.seen == []


async def test_a_recheck_lets_those_stay_who_still_may(server: Server, sql: Sql) -> None:
    """Nothing is lost, and nothing comes twice."""
    async with Subscriber.connect(server, "token-of-ada") as subscriber:
        view = await subscriber.view("secret", "ada")
        for _ in range(20):
            await sql.execute("select pg_notify('tidelog_recheck', '')")
            await write(sql, "ada")
        await subscriber.until_mark(sql, view)
        assert [kind for kind, _ in view.seen] == ["create"] * 20


async def test_access_that_is_taken_away_tells_the_stream_of_the_leave(server: Server, sql: Sql) -> None:
    """Once."""
    await let_in(sql, "club", "eve")
    async with Subscriber.connect(server, "token-of-eve") as subscriber:
        await answer(subscriber, "noted", "club")
        await put_out(sql, "club", "")
        assert (await subscriber.next())["event"]["event"]["data"] == DENIED
    await eventually(lambda: notes_are(sql, [("join", "club"), ("leave", "club")]))


# The end of a token.


async def test_a_connection_ends_with_its_token(server: Server) -> None:
    """tidelog.v1 is told before; both are closed with a code of their own."""
    async with tidelog_peer(server, "short-ada-2") as own:
        await own.subscribe("s", "ada", stream="secret")
        (told,) = [one for one in await own.until("token_expires") if one["type"] == "token_expires"]
        assert told.keys() == {"type", "at"}
        assert (await closed(own.socket)).code == 4401
    async with Subscriber.connect(server, "short-ada-1") as motia:
        assert (await closed(motia.socket)).code == 4401


async def test_a_token_is_renewed_in_band(server: Server, sql: Sql) -> None:
    """The subscription goes on past the end of the first one."""
    async with tidelog_peer(server, "short-ada-2") as own:
        await own.subscribe("s", "ada", stream="secret")
        await own.say("auth", token="token-of-ada")
        assert await own.until("authenticated")
        async with Subscriber.connect(server, "short-ada-2") as other:
            await closed(other.socket)  # which began later: the first token has ended
        await write(sql, "ada")
        assert (await own.until("commit"))[-1]["changes"]


async def test_a_connection_does_not_become_somebody_elses(server: Server, sql: Sql) -> None:
    """A renewal that fails, or names another, changes nothing."""
    async with tidelog_peer(server, "token-of-eve") as own:
        for token in ("token-of-nobody", "token-of-ada", "token-that-breaks", "x y", ""):
            await own.say("auth", token=token)
            assert (await own.next())["type"] == "error"
            await own.subscribe("s", "ada", stream="secret")
            assert (await own.next())["code"] == DENIED["code"]
        await own.subscribe("s", "eve", stream="secret")
        await own.until("live")


async def test_who_comes_as_nobody_may_say_later_who_it_is(server: Server) -> None:
    """What it subscribes to from then on is asked for as that."""
    async with tidelog_peer(server) as own:
        await own.subscribe("s", "ada", stream="secret")
        assert (await own.next())["code"] == DENIED["code"]
        await own.say("auth", token="token-of-ada")
        assert await own.next() == {"type": "authenticated"}
        await own.subscribe("s", "ada", stream="secret")
        await own.until("live")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "auth"},
        {"type": "auth", "token": 5},
        {"type": "auth", "token": None},
        {"type": "auth", "token": "x", "a": 1},
    ],
)
async def test_a_renewal_that_is_none_is_told_and_repeats_nothing(server: Server, message: dict[str, Any]) -> None:
    """The connection goes on."""
    async with tidelog_peer(server, "token-of-ada") as own:
        await own.socket.send(json.dumps(message))
        error = await own.next()
        assert (error["code"], "token" in error["message"]) == ("message_invalid", True)


async def test_tidelogs_own_client_renews_its_token(server: Server, sql: Sql) -> None:
    """By a function that gets one: in band, and where the server refuses that, with another connection."""
    given: list[str] = []

    async def token() -> str:
        given.append("short-eve-1" if len(given) == 2 else "short-ada-1")
        return given[-1]

    client = Client(server.ws_url, token=token)
    async with client, client.subscribe("secret", "ada") as subscription:
        await anext(aiter(subscription))
        await eventually(lambda: len(given) >= 6)
        await write(sql, "ada")
        async for message in subscription:
            if isinstance(message, Commit):
                break
    with pytest.raises(ServerRefusedError, match="401"):
        async with Client(server.ws_url, token="token-of-nobody"):
            pass
    async with Client(server.ws_url, token="short-ada-1") as client:
        with pytest.raises(ServerRefusedError, match="4401"):
            async for _ in client.subscribe("secret", "ada"):
                pass


async def test_a_client_that_goes_while_it_is_authenticated_leaves_nothing(server: Server) -> None:
    """Neither an error in the log nor a connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    for _ in range(2):
        writer.write(
            f"GET /?authToken=token-that-hangs HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\n{key}\r\n".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.close()
    assert await status_of(server, "/?authToken=token-that-hangs") == 503
    assert not [record for record in server.records("uvicorn.error") if record["level"] == "error"]


async def test_onleave_is_told_when_the_server_stops(databases: Databases) -> None:
    """What it was told of while it lived, it is told the end of."""
    url = await databases.create()
    sql = await connect_sql(url)
    await sql.execute(TABLES)
    try:
        async with server_starter(url) as start:
            server = await start(STEPS)
            async with Subscriber.connect(server, "token-of-root") as subscriber:
                await answer(subscriber, "noted", "g")
                await server.stop()
            assert await notes(sql) == [("join", "g"), ("leave", "g")]
    finally:
        await sql.close()
        await databases.drop(url)


async def test_an_address_that_tries_too_many_tokens_is_told_when_to_come_back(start_server: Any) -> None:
    """On every way in; a token that was right before goes on being so."""
    server = await start_server(STEPS, TIDELOG_WRONG_TOKENS_PER_MINUTE_MAX="5")
    ada = {"Authorization": "Bearer token-of-ada"}
    async with server.http() as http, tidelog_peer(server) as peer:
        assert (await http.get("/who", headers=ada)).status_code == 200
        for _ in range(5):
            await peer.say("auth", token="token-of-nobody")
            assert (await peer.next())["code"] == "unauthorized"
        await peer.say("auth", token="token-of-nobody")
        error = await peer.next()
        assert (error["code"], error["retry_after"] > 0) == ("too_many_attempts", True)
        refused = await http.get("/who", headers={"Authorization": "Bearer token-of-eve"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_attempts")
        assert int(refused.headers["retry-after"]) > 0
        with pytest.raises(InvalidStatus) as closed_door:
            await connect(server.ws_url + "/?authToken=token-of-eve", proxy=None)
        assert closed_door.value.response.status_code == 429
        assert int(closed_door.value.response.headers["retry-after"]) > 0
        for headers in (ada, {}):
            assert (await http.get("/who", headers=headers)).status_code == 200
        assert await status_of(server, "/?authToken=token-of-ada") == 101
    assert any("TIDELOG_WRONG_TOKENS_PER_MINUTE_MAX" in one["message"] for one in server.records("tidelog.limits"))


# Where nothing is said.


EXAMPLE = Path("app/steps")


@pytest.mark.parametrize(
    ("settings", "streams"),
    [
        ({"TIDELOG_ACCESS": "open"}, "open"),
        ({"TIDELOG_ACCESS": "declared"}, "denied"),
        ({"TIDELOG_ACCESS": "closed"}, "denied"),
        ({}, "open"),
    ],
)
async def test_a_server_without_authentication_is_as_the_setting_says(
    start_server: Any, settings: dict[str, str], streams: str
) -> None:
    """Open by itself only where nobody else comes."""
    server = await start_server(**settings)
    async with Subscriber.connect(server) as subscriber:
        assert (await answer(subscriber, "chatMessage", "g") == []) is (streams == "open")
