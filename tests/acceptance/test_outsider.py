"""What an outsider tries, who has no right to what Ada has: none of it comes out.

After OWASP's lists for WebSockets and for APIs
(https://cheatsheetseries.owasp.org/cheatsheets/WebSocket_Security_Cheat_Sheet.html,
https://owasp.org/API-Security/editions/2023/en/0x11-t10/). A canary is in all that is Ada's, and each try looks for it
in every byte that it gets, while more of it is written.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness import FRAME_TIMEOUT_SECONDS, Server, Subscriber, eventually
from tests.integration.test_access import (  # noqa: F401 - fixtures, too
    Sql,
    let_in,
    put_out,
    server,
    servers,
    sql,
    tidelog_peer,
)

CANARY = f"canary-{secrets.token_hex(8)}"
BULK_ITEMS, BULK_TEXT = 30_000, "x" * 1000  # more than all buffers on the way to a client that doesn't read

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
async def _canaries(servers: tuple[Server, Server]) -> None:
    """In every stream with a rule, in Ada's group."""
    connection = await asyncpg.connect(servers[0].database_url)
    for table in ("secret", "plain_secret", "noted", "broken"):
        await connection.execute(
            f"insert into streams.{table} (group_id, id, data) values ('ada', 'a', $1::jsonb)",
            json.dumps({"text": CANARY}),
        )
    await connection.close()


async def more_canaries(sql: Sql) -> None:
    """What happens meanwhile: changes and events of Ada's."""
    for table in ("secret", "plain_secret", "noted", "broken"):
        await sql.execute(
            f"insert into streams.{table} (group_id, id, data) values ('ada', gen_random_uuid()::text, $1)",
            {"text": CANARY},
        )
    await sql.execute("select streams.send('secret', 'ada', null, 'typing', $1)", {"text": CANARY})


@dataclass
class Outsider:
    """One connection, and all that came over it."""

    socket: ClientConnection
    is_motia: bool
    got: list[str] = field(default_factory=list)

    async def say(self, message: Any) -> None:
        await self.socket.send(message if isinstance(message, str) else json.dumps(message))

    async def until(self, part: str) -> None:
        async with asyncio.timeout(FRAME_TIMEOUT_SECONDS):
            while not self.got or part not in self.got[-1]:
                self.got.append(str(await self.socket.recv()))

    async def wait_for_all(self, sql: Sql) -> str:
        """Everything that comes of what was said, and of what happens to Ada's meanwhile."""
        mark = f"mark-{secrets.token_hex(8)}"
        if self.is_motia:
            await self.say({"type": "join", "data": {"streamName": "open", "groupId": mark, "subscriptionId": mark}})
        else:
            await self.say({"type": "subscribe", "id": mark, "stream": "open", "group": mark})
        await self.until(mark)
        await more_canaries(sql)
        await sql.execute("insert into streams.open (group_id, id, data) values ($1, 'last', '{}')", mark)
        await self.until('"last"')
        return "".join(self.got)


@asynccontextmanager
async def outsider(
    server: Server,
    token: str | None,
    *,
    is_motia: bool = True,
    path: str = "/",
    **options: Any,
) -> AsyncIterator[Outsider]:
    protocols: Any = [*([] if is_motia else ["tidelog.v1"]), *(["Authorization", token] if token else [])]
    async with connect(
        server.ws_url + path, subprotocols=protocols or None, proxy=None, max_size=None, **options
    ) as one:
        yield Outsider(one, is_motia)


def ids(tries: Sequence[Any]) -> list[str]:
    return [str(number) for number in range(len(tries))]


# Names: of streams, groups and items, as they are and as somebody might mistake them.

NAMES: list[dict[str, Any]] = [
    {"streamName": "secret", "groupId": "ada"},
    {"streamName": "secret", "groupId": "ada", "id": "a"},
    {"streamName": "secret", "groupId": "ada", "id": None},
    {"streamName": "secret", "groupId": "ada", "id": ""},
    {"streamName": "secret", "groupId": "ada", "id": 0},
    {"streamName": "secret", "groupId": "ada", "id": ["a"]},
    {"streamName": "secret", "groupId": "ada", "id": {"$ne": ""}},
    {"streamName": "secret", "groupId": "ada", "id": "*"},
    {"streamName": "secret", "groupId": "ada "},
    {"streamName": "secret", "groupId": " ada"},
    {"streamName": "secret", "groupId": "ADA"},
    {"streamName": "secret", "groupId": "Ada"},
    {"streamName": "secret", "groupId": "ada\0"},
    {"streamName": "secret", "groupId": "ada\u200b"},
    {"streamName": "secret", "groupId": "\u0430da"},
    {"streamName": "secret", "groupId": "ada\n"},
    {"streamName": "secret", "groupId": "ada/../ada"},
    {"streamName": "secret", "groupId": "%61da"},
    {"streamName": "secret", "groupId": "ada'--"},
    {"streamName": "secret", "groupId": "' or '1'='1"},
    {"streamName": "secret", "groupId": "*"},
    {"streamName": "secret", "groupId": "%"},
    {"streamName": "secret", "groupId": "ad_"},
    {"streamName": "secret", "groupId": ""},
    {"streamName": "secret", "groupId": None},
    {"streamName": "secret", "groupId": ["ada"]},
    {"streamName": "secret", "groupId": {"$ne": ""}},
    {"streamName": "secret", "groupId": True},
    {"streamName": "secret"},
    {"streamName": "Secret", "groupId": "ada"},
    {"streamName": "SECRET", "groupId": "ada"},
    {"streamName": "secret ", "groupId": "ada"},
    {"streamName": "streams.secret", "groupId": "ada"},
    {"streamName": '"secret"', "groupId": "ada"},
    {"streamName": "secret_history", "groupId": "ada"},
    {"streamName": "secret/ada", "groupId": "a"},
    {"streamName": "plain_secret", "groupId": "ada"},
    {"streamName": "plain-secret", "groupId": "ada"},
    {"streamName": "plainSecret", "groupId": "ada"},
    {"streamName": "noted", "groupId": "ada"},
    {"streamName": "broken", "groupId": "ada"},
    {"streamName": "change", "groupId": "ada"},
    {"streamName": "commit", "groupId": "ada"},
    {"streamName": "event", "groupId": "ada"},
    {"streamName": "epoch", "groupId": "ada"},
    {"streamName": "consumer", "groupId": "ada"},
    {"streamName": "pg_catalog.pg_authid", "groupId": "postgres"},
    {"streamName": "__class__", "groupId": "ada"},
    {"streamName": "secret", "groupId": "ada", "auth": {"subject": "ada"}},
    {"streamName": "secret", "groupId": "ada", "authContext": {"subject": "ada"}, "subject": "ada"},
    {"streamName": "secret", "groupId": "ada", "operation": "history"},
    {"streamName": "secret", "groupId": "ada", "context": {"subject": "ada"}, "unauthorized": False},
]


@pytest.mark.parametrize("token", [None, "token-of-eve"], ids=["nobody", "eve"])
@pytest.mark.parametrize("name", NAMES, ids=ids(NAMES))
async def test_a_join_of_what_is_adas_brings_nothing(
    server: Server,
    sql: Sql,
    token: str | None,
    name: dict[str, Any],
) -> None:
    """Motia's dialect."""
    async with outsider(server, token) as one:
        await one.say({"type": "join", "data": {"subscriptionId": "s", **name}})
        assert CANARY not in await one.wait_for_all(sql)


@pytest.mark.parametrize("name", NAMES, ids=ids(NAMES))
async def test_a_subscription_to_what_is_adas_brings_nothing(
    server: Server,
    sql: Sql,
    name: dict[str, Any],
) -> None:
    """`tidelog.v1`, with a snapshot and with a position."""
    spelt = {{"streamName": "stream", "groupId": "group", "id": "item"}.get(key, key): name[key] for key in name}
    async with outsider(server, "token-of-eve", is_motia=False) as one:
        for place in ({}, {"since": 0, "epoch": await epoch_of(server)}):
            await one.say({"type": "subscribe", "id": "s", **spelt, **place})
        assert CANARY not in await one.wait_for_all(sql)


async def epoch_of(server: Server) -> str:
    async with tidelog_peer(server) as peer:
        await peer.subscribe("s", "g", stream="open")
        return str((await peer.until("live"))[-1]["epoch"])


# Messages that are not quite what they should be.

RAW = [
    '{"type":"join","data":{"streamName":"secret","groupId":"eve","groupId":"ada","subscriptionId":"s"}}',
    '{"type":"join","data":{"streamName":"open","streamName":"secret","groupId":"ada","subscriptionId":"s"}}',
    '{"type":"join","type":"leave","data":{"streamName":"secret","groupId":"ada","subscriptionId":"s"}}',
    '{"type":"join","data":{"streamName":"secret","groupId":"\\u0061da","subscriptionId":"s"}}',
    '{"type":"join","data":[{"streamName":"secret","groupId":"ada","subscriptionId":"s"}]}',
    '[{"type":"join","data":{"streamName":"secret","groupId":"ada","subscriptionId":"s"}}]',
    '{"type":"JOIN","data":{"streamName":"secret","groupId":"ada","subscriptionId":"s"}}',
    '{"type":"history","data":{"streamName":"secret","groupId":"ada","subscriptionId":"s"}}',
    '{"type":"get","data":{"streamName":"secret","groupId":"ada","id":"a"}}',
    '{"type":"auth","token":"token-of-ada"}',  # in a dialect that has no such message
    '{"type":"authenticate","data":{"token":"token-of-ada"}}',
    '{"__proto__":{"auth":{"subject":"ada"}},"type":"join","data":{"streamName":"secret","groupId":"ada","subscriptionId":"s"}}',
    "\ufeff" + '{"type":"join","data":{"streamName":"secret","groupId":"ada","subscriptionId":"s"}}',
    '{"type":"join","data":{"streamName":"secret","groupId":"ada","subscriptionId":"' + "s" * 257 + '"}}',
]


@pytest.mark.parametrize("raw", RAW, ids=ids(RAW))
async def test_a_message_that_two_could_read_differently_brings_nothing(
    server: Server,
    sql: Sql,
    raw: str,
) -> None:
    """What decides reads what serves."""
    async with outsider(server, "token-of-eve") as one:
        await one.say(raw)
        await one.say({"type": "join", "data": {"streamName": "secret", "groupId": "ada", "subscriptionId": "t"}})
        assert CANARY not in await one.wait_for_all(sql)


TIDELOG_RAW = [
    '{"type":"subscribe","id":"s","stream":"secret","group":"eve","group":"ada"}',
    '{"type":"subscribe","id":"s","stream":"secret","group":"ada","since":-1,"epoch":"EPOCH"}',
    '{"type":"subscribe","id":"s","stream":"secret","group":"ada","since":1e3,"epoch":"EPOCH"}',
    '{"type":"subscribe","id":"s","stream":"secret","group":"ada","since":9223372036854775807,"epoch":"EPOCH"}',
    '{"type":"subscribe","id":"s","stream":"secret","group":"ada","since":0,"epoch":"another"}',
    '{"type":"subscribe","id":"s","stream":"secret","group":"ada","item":"a","since":1,"epoch":"EPOCH"}',
    '{"type":"subscribe","id":"s","stream":"secret","group":"ada","at":"2020-01-01T00:00:00Z"}',
    '{"type":"subscribe","id":"s","stream":"secret","group":"ada","token":"token-of-ada"}',
    '{"type":"snapshot","subscription":"s","stream":"secret","group":"ada"}',
    '{"type":"commit","subscriptions":["s"],"position":1,"changes":[]}',
    '{"type":"authenticated"}',
    '{"type":"auth","token":"token-of-nobody"}',
    '{"type":"auth","token":{"subject":"ada"}}',
    '{"type":"auth","token":"token-of-ada"}',  # eve's connection does not become ada's
]


@pytest.mark.parametrize("raw", TIDELOG_RAW, ids=ids(TIDELOG_RAW))
async def test_a_stolen_position_or_another_message_brings_nothing(
    server: Server,
    sql: Sql,
    raw: str,
) -> None:
    """Positions and epochs are no secrets, and open nothing."""
    async with outsider(server, "token-of-eve", is_motia=False) as one:
        await one.say(raw.replace("EPOCH", await epoch_of(server)))
        await one.say({"type": "subscribe", "id": "t", "stream": "secret", "group": "ada"})
        assert CANARY not in await one.wait_for_all(sql)


# Tokens in places, and in forms, in which they are none.

Options = dict[str, Any]
NOT_ADA: list[tuple[str, Options]] = [
    ("/", {"additional_headers": {"Authorization": "token-of-ada"}}),
    ("/", {"additional_headers": {"Authorization": "Basic token-of-ada"}}),
    ("/", {"additional_headers": {"Authorization": "Bearer"}}),
    ("/", {"additional_headers": {"Authorization": "Bearer token-of-ada, token-of-eve"}}),
    ("/", {"additional_headers": {"Authorization": "Bearer token-of-ada x"}}),
    ("/", {"additional_headers": {"Authorization": "Bearer TOKEN-OF-ADA"}}),
    ("/", {"additional_headers": {"Authorization": 'Bearer "token-of-ada"'}}),
    ("/", {"additional_headers": {"X-Authorization": "Bearer token-of-ada"}}),
    ("/", {"additional_headers": {"Proxy-Authorization": "Bearer token-of-ada"}}),
    ("/", {"additional_headers": {"Cookie": "authToken=token-of-ada; token=token-of-ada"}}),
    ("/", {"additional_headers": {"X-User": "ada", "X-Forwarded-User": "ada", "Remote-User": "ada"}}),
    ("/", {"additional_headers": {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=::1"}}),
    ("/", {"additional_headers": {"X-Original-URL": "/?authToken=token-of-ada"}}),
    ("/?authtoken=token-of-ada", {}),
    ("/?token=token-of-ada", {}),
    ("/?authToken[]=token-of-ada", {}),
    ("/?authToken=", {}),
    ("/?authToken=token-of-ada%00", {}),
    ("/?authToken=token-of-ada%20", {}),
    ("/?authToken=token-of-ada&authToken=token-of-eve", {}),
    ("/?authToken=token-of-ada&authToken=x", {}),
    ("/?a=%26authToken=token-of-ada", {}),
    ("/;authToken=token-of-ada", {}),
    ("/authToken=token-of-ada", {}),
    ("/", {"subprotocols": ["token-of-ada"]}),
    ("/", {"subprotocols": ["token-of-ada", "Authorization"]}),
    ("/", {"subprotocols": ["authorization", "token-of-ada"]}),
    ("/", {"subprotocols": ["Authorization", "token-of-eve", "token-of-ada"]}),
    ("/", {"subprotocols": ["Authorization", "token-of-nobody", "token-of-ada"]}),
    ("/?authToken=token-of-ada", {"subprotocols": ["Authorization", "token-of-eve"]}),
    ("/?authToken=short-ada-0", {}),
    ("/?authToken=short-ada--60", {}),
    ("/?authToken=" + "x" * 9000, {}),
    ("/?" + "a&" * 2000 + "authToken=token-of-ada", {}),
    ("/?authToken=%ff", {}),
]


@pytest.mark.parametrize(("path", "options"), NOT_ADA, ids=ids(NOT_ADA))
async def test_what_is_no_token_of_adas_is_not_taken_for_one(
    server: Server,
    sql: Sql,
    path: str,
    options: Options,
) -> None:
    """It is refused, or it is nobody."""
    try:
        async with connect(server.ws_url + path, proxy=None, **options) as socket:
            one = Outsider(socket, is_motia=True)
            await one.say({"type": "join", "data": {"streamName": "secret", "groupId": "ada", "subscriptionId": "s"}})
            assert CANARY not in await one.wait_for_all(sql)
    except InvalidStatus as refused:
        assert refused.response.status_code in (400, 401, 403, 414, 431)
    except ConnectionClosed:
        pass


# Pages of others.

ORIGINS = [
    "https://evil.example",
    "http://evil.example:3000",
    "null",
    "http://127.0.0.1.evil.example",
    "http://localhost.evil.example",
    "https://127.0.0.1@evil.example",
    "file://",
    "http://[::ffff:192.0.2.1]",
    "",
    "http://evil.example http://127.0.0.1",
]


@pytest.mark.parametrize("origin", ORIGINS, ids=ids(ORIGINS))
async def test_a_page_of_others_opens_no_socket_with_a_victims_token(server: Server, origin: str) -> None:
    """Cross-site hijacking: the browser may send what authenticates, but the page is not ours."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(
            server.ws_url + "/?authToken=token-of-ada",
            proxy=None,
            additional_headers={"Origin": origin, "Sec-Fetch-Site": "cross-site", "Cookie": "session=ada"},
        )
    assert refused.value.response.status_code == 403


# Over HTTP: paths and headers that lead around a check.

PATHS = [
    ("POST", "/known"),
    ("POST", "/known/"),
    ("POST", "//known"),
    ("POST", "/./known"),
    ("POST", "/x/../known"),
    ("POST", "/%6bnown"),
    ("POST", "/known%2f"),
    ("POST", "/known%00"),
    ("POST", "/known;x=1"),
    ("POST", "/KNOWN"),
    ("POST", "/known?auth=optional"),
    ("GET", "/known"),
    ("HEAD", "/known"),
    ("PUT", "/known"),
    ("OPTIONS", "/known"),
    ("TRACE", "/known"),
    ("POST", "/through"),
    ("POST", "/through?answer=early"),
    ("POST", "/%74hrough"),
    ("HEAD", "/through"),
]
TRICKS: list[dict[str, str]] = [
    {},
    {"X-Original-URL": "/who", "X-Rewrite-URL": "/who"},
    {"X-HTTP-Method-Override": "POST", "X-Forwarded-User": "ada"},
]


@pytest.mark.parametrize("headers", TRICKS, ids=ids(TRICKS))
@pytest.mark.parametrize(("method", "path"), PATHS, ids=ids(PATHS))
async def test_no_path_leads_around_a_steps_authentication(
    server: Server,
    method: str,
    path: str,
    headers: dict[str, str],
) -> None:
    """Neither what it returns nor what its middleware answers."""
    async with server.http() as http:
        answer = await http.request(method, path, headers=headers, content=b"[]")
        assert answer.status_code in (204, 400, 401, 403, 404, 405)
        assert "answered before" not in answer.text and "x-outer" not in answer.headers


READS = [
    "/streams",
    "/streams/secret",
    "/streams/secret/items?group=ada",
    "/streams/secret/items?group=ada&id=a",
    "/streams/secret/items?group=ada&at=1",
    "/streams/secret/items?group=ada&at=2020-01-01T00:00:00Z",
    "/streams/secret/history?group=ada",
    "/feed/secret?group=ada",
    "/feed/secret?group=ada&since=0",
    "/secret/ada",
    "/secret/ada/a",
    "/inspector",
    "/asyncapi.json",
    "/schema/openapi.json",
    "/schema",
    "/health/ready",
    "/health/live",
    "/nothing",
]


@pytest.mark.parametrize("path", READS)
async def test_reading_over_http_brings_nothing_of_adas(server: Server, path: str) -> None:
    """Also not that there is a stream: what there isn't yet must be so when it comes."""
    async with server.http() as http:
        for headers in ({}, {"Authorization": "Bearer token-of-eve"}):
            answer = await http.get(path, headers=headers)
            assert answer.status_code in (200, 400, 401, 403, 404)
            for told in (CANARY, '"secret"', "plainSecret", "streams.secret"):
                assert told not in answer.text


# What tells that something exists.

ABSENT = ["absent", "secrets", "Secret", "change", "s" * 1024, "é", "a b", "secret_history"]


@pytest.mark.parametrize("is_motia", [True, False], ids=["motia", "tidelog.v1"])
@pytest.mark.parametrize("absent", ABSENT, ids=ids(ABSENT))
async def test_what_there_is_and_what_there_is_not_are_denied_alike(
    server: Server,
    absent: str,
    is_motia: bool,
) -> None:
    """To the byte, but for the names that were asked for: a group, an item, a rule that breaks."""
    told = []
    for stream in ("secret", "broken", absent):
        for item in (None, "a", "no such item"):
            async with outsider(server, "token-of-eve", is_motia=is_motia) as one:
                if is_motia:
                    data = {"streamName": stream, "groupId": "ada", "id": item, "subscriptionId": "s"}
                    await one.say({"type": "join", "data": data})
                    await one.until("STREAM_ACCESS_DENIED")
                    frame = json.loads(one.got[-1])
                    assert (frame.pop("streamName"), frame.pop("groupId"), frame.pop("id", None)) == (
                        stream,
                        "ada",
                        item,
                    )
                    frame.pop("timestamp")
                    told.append(json.dumps(frame))
                else:
                    place = {} if item is None else {"item": item}
                    await one.say({"type": "subscribe", "id": "s", "stream": stream, "group": "ada", **place})
                    await one.until("STREAM_ACCESS_DENIED")
                    told.append(one.got[-1])
    assert len(set(told)) == 1


async def test_a_full_connection_tells_nothing_either(server: Server, sql: Sql) -> None:
    """Nor does a name that is taken: both depend on the client's own subscriptions alone."""
    async with outsider(server, "token-of-eve", is_motia=False) as one:
        for stream in ("secret", "absent"):
            for _ in range(3):
                await one.say({"type": "subscribe", "id": "same", "stream": stream, "group": "ada"})
        everything = await one.wait_for_all(sql)
    assert CANARY not in everything


# With what is known of Ada's own connection.


async def test_adas_subscriptions_are_not_anybody_elses_to_leave_or_to_take(server: Server, sql: Sql) -> None:
    """Their ids are on her wire only, and mean nothing on another connection."""
    async with Subscriber.connect(server, "token-of-ada") as ada, outsider(server, "token-of-eve") as eve:
        name = await ada.join("secret", "ada")
        await ada.next()
        data = {"streamName": "secret", "groupId": "ada", "subscriptionId": name}
        await eve.say({"type": "leave", "data": data})
        await eve.say({"type": "join", "data": data})
        assert CANARY not in await eve.wait_for_all(sql)
        assert CANARY in json.dumps(await ada.next())


@pytest.mark.parametrize("is_motia", [True, False], ids=["motia", "tidelog.v1"])
async def test_a_snapshot_that_is_read_for_ada_is_not_shared_with_eve(
    server: Server,
    sql: Sql,
    is_motia: bool,
) -> None:
    """Who asks for the same at the same moment shares one reading, if all of them may."""
    async with (
        outsider(server, "token-of-ada", is_motia=is_motia) as ada,
        outsider(server, "token-of-eve", is_motia=is_motia) as eve,
        outsider(server, None, is_motia=is_motia) as nobody,
    ):
        for number in range(20):
            for one in (eve, ada, nobody, eve):
                if is_motia:
                    data = {"streamName": "secret", "groupId": "ada", "subscriptionId": f"s{number}"}
                    await one.say({"type": "join", "data": data})
                else:
                    await one.say({"type": "subscribe", "id": f"s{number}", "stream": "secret", "group": "ada"})
        assert CANARY in await ada.wait_for_all(sql)
        assert CANARY not in await eve.wait_for_all(sql)
        assert CANARY not in await nobody.wait_for_all(sql)


@pytest.fixture(scope="module")
async def _bulk(servers: tuple[Server, Server]) -> None:
    """A club's group that takes a while to be sent, with the canary at its end."""
    connection = await asyncpg.connect(servers[0].database_url)
    await connection.execute(
        "insert into streams.secret (group_id, id, data) "
        "select 'bulk', lpad(n::text, 8, '0'), jsonb_build_object('t', $1::text) from generate_series(1, $2::int) n",
        BULK_TEXT,
        BULK_ITEMS,
    )
    await connection.execute(
        "insert into streams.secret (group_id, id, data) values ('bulk', 'zzz', $1::jsonb)",
        json.dumps({"text": CANARY}),
    )
    await connection.close()


@pytest.mark.parametrize("way", ["sync", "snapshot", "resume"])
async def test_access_that_ends_in_the_middle_of_what_is_sent_ends_that(
    server: Server, sql: Sql, _bulk: None, way: str
) -> None:
    """A member who stops reading, and is put out: the rest, with the canary, never comes."""
    await let_in(sql, "bulk", "eve")
    got: list[str] = []
    async with outsider(server, "token-of-eve", is_motia=way == "sync", max_queue=1) as eve:
        if way == "sync":
            await eve.say({"type": "join", "data": {"streamName": "secret", "groupId": "bulk", "subscriptionId": "s"}})
        else:
            place = {"since": 0, "epoch": await epoch_of(server)} if way == "resume" else {}
            await eve.say({"type": "subscribe", "id": "s", "stream": "secret", "group": "bulk", **place})
        parts = parts_of(eve.socket)
        async with asyncio.timeout(FRAME_TIMEOUT_SECONDS):
            while BULK_TEXT not in "".join(got):  # it has begun
                got.append(await anext(parts))
        await put_out(sql, "bulk", '{"subject": "eve"}')
        async with Subscriber.connect(server, "token-of-eve") as other:
            await eventually(lambda: is_denied(other))
        another = "insert into streams.secret (group_id, id, data) values ('bulk', gen_random_uuid()::text, $1)"
        await sql.execute(another, {"text": CANARY})
        with suppress(ConnectionClosed, StopAsyncIteration):
            async with asyncio.timeout(FRAME_TIMEOUT_SECONDS):
                while "STREAM_ACCESS_DENIED" not in got[-1]:
                    got.append(await anext(parts))
    assert CANARY not in "".join(got)
    assert "STREAM_ACCESS_DENIED" in got[-1] or eve.socket.close_code == 1013


async def parts_of(socket: ClientConnection) -> AsyncIterator[str]:
    """What comes, as it comes: also of a message that isn't whole."""
    while True:
        async for part in socket.recv_streaming():
            yield str(part)


async def is_denied(other: Subscriber) -> bool:
    """Whether the rule says no: what is asked of another connection, is asked of all of them."""
    await other.join("secret", "bulk", "zzz")
    while (frame := await other.next())["event"]["type"] not in ("sync", "event"):
        pass
    return bool(frame["event"]["type"] == "event")


@pytest.mark.parametrize("is_motia", [True, False], ids=["motia", "tidelog.v1"])
@pytest.mark.parametrize("end", ["expired", "revoked"])
async def test_what_comes_after_the_end_of_a_right_is_not_sent(
    server: Server,
    sql: Sql,
    is_motia: bool,
    end: str,
) -> None:
    """Of a token that ends, and of a membership that is taken away."""
    group = f"{end} {is_motia}"
    await let_in(sql, group, "eve")
    async with outsider(server, "short-eve-1" if end == "expired" else "token-of-eve", is_motia=is_motia) as eve:
        if is_motia:
            await eve.say({"type": "join", "data": {"streamName": "secret", "groupId": group, "subscriptionId": "s"}})
            await eve.until("sync")
        else:
            await eve.say({"type": "subscribe", "id": "s", "stream": "secret", "group": group})
            await eve.until('"live"')
        if end == "revoked":
            await put_out(sql, group, "")
            await eve.until("STREAM_ACCESS_DENIED")
        else:
            with pytest.raises(ConnectionClosed):
                await eve.until("nothing that ever comes")
        await sql.execute(
            "insert into streams.secret (group_id, id, data) values ($1, gen_random_uuid()::text, $2)",
            group,
            {"text": CANARY},
        )
        if end == "revoked":
            assert CANARY not in await eve.wait_for_all(sql)
    assert CANARY not in "".join(eve.got)


# What anybody with a connection to the database can do.

HINTS = [
    "",
    '{"subject": "ada"}',
    '{"subject": "eve", "stream": "secret", "group": "ada"}',
    '{"allow": "eve"}',
    '{"subject": "eve", "may": true}',
    "[]",
    "x" * 7999,
]


@pytest.mark.parametrize("hint", HINTS, ids=ids(HINTS))
async def test_a_notify_opens_nothing_and_closes_nothing(server: Server, sql: Sql, hint: str) -> None:
    """It has rules asked, whose answers are what they are."""
    async with Subscriber.connect(server, "token-of-ada") as ada, outsider(server, "token-of-eve") as eve:
        view = await ada.view("secret", "ada")
        await eve.say({"type": "join", "data": {"streamName": "secret", "groupId": "ada", "subscriptionId": "s"}})
        for _ in range(50):
            await sql.execute("select pg_notify('tidelog_recheck', $1)", hint)
        assert CANARY not in await eve.wait_for_all(sql)
        await ada.until_mark(sql, view)
        assert all(kind in ("create", "typing") for kind, _ in view.seen) and view.seen


# Last: what all of this has left behind.


async def test_no_token_and_no_canary_is_in_the_log(servers: tuple[Server, Server]) -> None:
    """After all of the above, with access lines and tracebacks."""
    for each in servers:
        log = each.log()
        for told in (CANARY, "token-of-ada", "token-of-eve", "token-of-nobody", "short-ada", "short-eve"):
            assert told not in log.replace("/authToken=***", ""), told


# Reads over HTTP.

READS: list[tuple[str, str]] = [
    ("items", "group=ada"),
    ("items", "group=ada&id=a"),
    ("items", "group=ada&at=1"),
    ("items", "group=ada&at=2999-01-01T00:00:00Z"),
    ("items", "group=ada&id=a&at=1"),
    ("items", "group=ada&id=a&after=a"),
    ("items", "group=eve&id=a"),
    ("items", "group=eve&after="),
    ("items", "group=eve&after=%00"),
    ("items", "group=eve&group=ada"),
    ("items", "group=ada&group=eve"),
    ("items", "group=eve%26group=ada"),
    ("items", "group=eve;group=ada"),
    ("items", "group=ADA"),
    ("items", "group=ada%20"),
    ("items", "group=%25"),
    ("items", "group=*"),
    ("items", "group[]=ada"),
    ("items", "group[%24ne]=x"),
    ("items", "groupId=ada"),
    ("items", "group=eve%27%20or%20%271%27%3D%271"),
    ("items", "group=eve&id=a%27%20or%20%271%27%3D%271"),
    ("items", "group=eve&at=1;select%201"),
    ("items", "group=ada&operation=subscribe"),
    ("items", "group=ada&subject=ada"),
    ("items", "group=ada&wait_for=1"),
    ("items", "group=ada&wait_for=position:0"),
    ("history", "group=ada"),
    ("history", "group=ada&id=a"),
    ("history", "group=ada&from=0&to=1"),
    ("history", "group=eve&after=0.0"),
    ("history", "group=eve&id=a"),
    ("groups", ""),
    ("groups", "prefix=a"),
    ("groups", "prefix=ada"),
    ("groups", "at=1"),
    ("groups", "after=a"),
    ("groups/", ""),
    ("items/", "group=ada"),
    ("../secret/items", "group=ada"),
]
GUARDED = [
    "secret",
    "plainSecret",
    "noted",
    "broken",
    "listed",
    "secret_history",
    "_secret_log",
    "SECRET",
    "secret%20",
    "nothing",
]


@pytest.mark.parametrize("token", [None, "token-of-eve"], ids=["nobody", "eve"])
async def test_a_read_of_what_is_adas_brings_nothing(server: Server, sql: Sql, token: str | None) -> None:
    """No item, no history, and no name of a group; also under the names of tables and views."""
    await sql.execute(
        "insert into streams.listed (group_id, id, data) values ($1, 'a', '{}') on conflict do nothing", CANARY
    )
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with server.http() as http:
        for stream in GUARDED:
            for read, query in READS:
                answer = await http.get(f"/streams/{stream}/{read}?{query}", headers=headers)
                assert CANARY not in answer.text and "ada" not in answer.text.replace("nothing is served", ""), (
                    stream, read, query, answer.text,
                )  # fmt: skip
                assert answer.status_code in (200, 400, 404), (stream, read, query, answer.text)
                if answer.status_code == 200:  # her own group, which is empty
                    assert "group=eve" in query and stream in ("secret", "plainSecret", "noted", "listed")
        listed = await http.get("/streams", headers=headers)
        assert not {"secret", "plainSecret", "noted", "broken", "listed"} & {
            one["name"] for one in listed.json()["streams"]
        }


@pytest.mark.parametrize("token", [None, "token-of-eve"], ids=["nobody", "eve"])
async def test_what_may_not_be_read_is_as_if_it_weren_t(server: Server, token: str | None) -> None:
    """The same status, headers and bytes, whatever is asked of it."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with server.http() as http:
        for read in ("items?group=ada", "items?group=ada&id=a", "items?group=ada&at=1", "history?group=ada", "groups",
                     "items?group=ada&wait_for=999999999", "items", "items?group=ada&limit=0"):  # fmt: skip
            answers = [await http.get(f"/streams/{stream}/{read}", headers=headers) for stream in GUARDED]
            seen = {
                (one.status_code, one.content, tuple(sorted((k, v) for k, v in one.headers.items() if k != "date")))
                for one in answers
            }
            assert len(seen) == 1, (read, seen)


async def test_who_may_reads(server: Server, sql: Sql) -> None:
    """What is hers, and what lists groups says so; a rule that was never asked about no group opens nothing."""
    await sql.execute(
        "insert into streams.listed (group_id, id, data) values ('ada', 'l', '{}') on conflict do nothing"
    )
    ada, eve = ({"authorization": f"Bearer token-of-{name}"} for name in ("ada", "eve"))
    async with server.http() as http:
        item = (await http.get("/streams/secret/items?group=ada&id=a", headers=ada)).json()["item"]
        assert item["data"]["text"] == CANARY
        assert (await http.get("/streams/secret/items?group=ada&id=a&authToken=token-of-ada")).json()["item"] == item
        assert CANARY in (await http.get("/streams/secret/history?group=ada", headers=ada)).text
        assert (await http.get("/streams/secret/groups", headers=ada)).status_code == 404
        assert "ada" in (await http.get("/streams/listed/groups", headers=ada)).json()["groups"]
        for headers in (eve, {}):
            assert (await http.get("/streams/listed/groups", headers=headers)).status_code == 404
        names = {one["name"] for one in (await http.get("/streams", headers=ada)).json()["streams"]}
        assert {"listed", "open"} <= names and "secret" not in names
        wrong = await http.get("/streams/open/items?group=g", headers={"authorization": "Bearer token-of-nobody"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "unauthorized")
