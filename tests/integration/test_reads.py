"""Reads over HTTP: pages of one snapshot, exactly as of the position that they name, for those who may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import httpx
import pytest
from litestar import Litestar, get
from litestar.exceptions import ImproperlyConfiguredException

from tests.conftest import StartServer
from tests.integration.sequencer_fixtures import WAIT_SECONDS
from tidelog import Stream, TidelogConfig, TidelogPlugin
from tidelog.testing import ServedApp
from tidelog.testing.application import plugins_of

pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")

NOTE = Stream("note", {"type": "object"})
ITEMS = "/live/streams/note/items"
HISTORY = "/live/streams/note/history"
GROUPS = "/live/streams/note/groups"
SET = (
    "insert into streams.note (group_id, id, data) values ($1, $2, jsonb_build_object('n', $3::int)) "
    "on conflict (group_id, id) do update set data = excluded.data"
)
# While it is held nothing gets a number: streams.commit can't be written to.
STOP_NUMBERING = "lock table streams.commit in share mode"


@pytest.fixture
def tidelog_app() -> Callable[[str], Litestar]:
    def make(database_url: str) -> Litestar:
        config = TidelogConfig(database_url=database_url, streams=[NOTE, Stream("other")], path="/live")
        return Litestar(plugins=[TidelogPlugin(config)], logging_config=None)

    return make


@pytest.fixture
async def sql(tidelog_database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(tidelog_database_url)
    yield connection
    await connection.close()


async def write(sql: asyncpg.Connection[Any], *items: tuple[str, str, int | None]) -> str:
    """One transaction; None deletes. Returns its id."""
    async with sql.transaction():
        for group, id, n in items:
            if n is None:
                await sql.execute("delete from streams.note where group_id = $1 and id = $2", group, id)
            else:
                await sql.execute(SET, group, id, n)
        return str(await sql.fetchval("select pg_current_xact_id()"))


async def read(client: httpx.AsyncClient, path: str, **parameters: Any) -> dict[str, Any]:
    renamed = {"from" if name == "begin" else name: value for name, value in parameters.items()}
    answer = await client.get(path, params=renamed)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def error_of(client: httpx.AsyncClient, path: str, **parameters: Any) -> tuple[int, str]:
    answer = await client.get(path, params=parameters)
    return answer.status_code, answer.json()["error"]["code"]


def ns(answer: dict[str, Any]) -> dict[str, int]:
    return {item["id"]: item["data"]["n"] for item in answer["items"]}


async def test_items_come_in_pages(client: httpx.AsyncClient, sql: asyncpg.Connection[Any]) -> None:
    """In the order of their ids, each once, with version and data; other groups' are not among them."""
    mine = await write(sql, *(("g", f"i{n}", n) for n in range(5)), ("h", "x", 9))
    first = await read(client, ITEMS, group="g", limit=2, wait_for=mine)
    assert first["items"] == [{"id": f"i{n}", "version": 1, "data": {"id": f"i{n}", "n": n}} for n in (0, 1)]
    second = await read(client, ITEMS, group="g", limit=2, after=first["next"], at=first["position"])
    third = await read(client, ITEMS, group="g", limit=2, after=second["next"], at=first["position"])
    assert [*ns(second), *ns(third)] == ["i2", "i3", "i4"] and third["next"] is None
    assert first["position"] == third["position"] == 1 and len(first["epoch"]) == 36


async def test_a_read_is_as_of_its_position(client: httpx.AsyncClient, sql: asyncpg.Connection[Any]) -> None:
    """By a number, and by the time that history has; what came later is not there, what went is."""
    await write(sql, ("g", "a", 1), ("g", "b", 1))
    await write(sql, ("g", "a", 2))
    last = await write(sql, ("g", "a", None), ("h", "c", 3))
    changes = (await read(client, HISTORY, group="g", wait_for=last))["changes"]
    for at, expected in ((0, {}), (1, {"a": 1, "b": 1}), (2, {"a": 2, "b": 1}), (3, {"b": 1})):
        answer = await read(client, ITEMS, group="g", at=at)
        assert ns(answer) == expected and answer["position"] == at
        assert (await read(client, GROUPS, at=at))["groups"] == [[], ["g"], ["g"], ["g", "h"]][at]
    assert ns(await read(client, ITEMS, group="g", at=changes[2]["at"])) == {"a": 2, "b": 1}
    assert (await read(client, ITEMS, group="g", id="a", at=2))["item"]["data"] == {"id": "a", "n": 2}
    assert await error_of(client, ITEMS, group="g", id="a", at=3) == (404, "item_unknown")


async def test_what_has_no_number_is_not_in_an_answer(
    client: httpx.AsyncClient, sql: asyncpg.Connection[Any], tidelog_database_url: str
) -> None:
    """Created, updated, deleted; groups that came and went: until a commit has its number, all is as before it."""
    items: list[tuple[str, str, int | None]] = [("g", id, 1) for id in "abcdef"]
    before = await write(sql, *items, ("gone", "x", 1))
    assert set(ns(await read(client, ITEMS, group="g", wait_for=before))) == set("abcdef")
    stopper = await asyncpg.connect(tidelog_database_url)
    async with stopper.transaction():
        await stopper.execute(STOP_NUMBERING)
        await write(sql, ("g", "a", 2), ("g", "c", None), ("g", "bb", 1), ("gone", "x", None), ("new", "x", 1))
        mine = await write(sql, ("g", "a", 3), ("g", "b", None), ("g", "c", 2), ("g", "d", None))
        for limit in (2, 100):
            first = await read(client, ITEMS, group="g", limit=limit)
            rest = await read(
                client, ITEMS, group="g", **({"after": first["next"]} if first["next"] else {"after": "f"})
            )
            assert {**ns(first), **ns(rest)} == dict.fromkeys("abcdef", 1) and first["position"] == 1
        assert (await read(client, ITEMS, group="g", id="a"))["item"]["version"] == 1
        assert (await read(client, ITEMS, group="g", id="d"))["item"]["data"]["n"] == 1
        assert await error_of(client, ITEMS, group="g", id="bb") == (404, "item_unknown")
        assert (await read(client, GROUPS))["groups"] == ["g", "gone"]
        assert (await read(client, GROUPS, limit=1, after="g"))["groups"] == ["gone"]
        assert (await read(client, GROUPS, prefix="n"))["groups"] == []
    await stopper.close()
    assert ns(await read(client, ITEMS, group="g", wait_for=mine)) == {"a": 3, "bb": 1, "c": 2, "e": 1, "f": 1}
    assert (await read(client, GROUPS))["groups"] == ["g", "new"]


async def test_an_item_that_can_t_be_told_yet_is_waited_for(
    client: httpx.AsyncClient, sql: asyncpg.Connection[Any], tidelog_database_url: str
) -> None:
    """Its last change has no number, and the one before is not kept: it is told when there is a number."""
    mine = await write(sql, ("g", "a", 1))
    mine = await write(sql, ("h", "a", 1))
    await read(client, ITEMS, group="h", wait_for=mine)
    await sql.execute("delete from streams.change where group_id = 'g'; delete from streams.commit where number = 1")
    stopper = await asyncpg.connect(tidelog_database_url)
    async with stopper.transaction():
        await stopper.execute(STOP_NUMBERING)
        await write(sql, ("g", "a", 2))
        reading = asyncio.create_task(read(client, ITEMS, group="g"))
        assert not (await asyncio.wait([reading], timeout=0.1))[0]
    await stopper.close()
    assert ns(await reading) == {"a": 2}


async def test_an_item_has_an_etag(client: httpx.AsyncClient, sql: asyncpg.Connection[Any]) -> None:
    """304 for what the client has; another one for what was changed, or deleted and made anew with the same version."""
    mine = await write(sql, ("g", "a", 1))
    etags = []
    for change in (
        [("g", "b", 1)],
        [("g", "a", 2)],
        [("g", "a", None), ("g", "a", 3)],
        [("g", "a", None), ("g", "a", 4)],
    ):
        answer = await client.get(ITEMS, params={"group": "g", "id": "a", "wait_for": mine})
        etags.append(answer.headers["etag"])
        same = await client.get(ITEMS, params={"group": "g", "id": "a"}, headers={"if-none-match": f'"x", {etags[-1]}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etags[-1])
        mine = await write(sql, *change)
    assert etags[0] == etags[1] and len(set(etags)) == 3


async def test_groups_come_in_pages_and_by_their_beginning(
    client: httpx.AsyncClient, sql: asyncpg.Connection[Any]
) -> None:
    """Any text is a group's id, and none of it is a pattern."""
    names = sorted(["a", "a%", "a_b", "ab", "b/c", "b c", "ä", "日本"])
    mine = await write(sql, *((name, id, 1) for name in names for id in ("x", "y")))
    found: list[str] = []
    after: dict[str, Any] = {"wait_for": mine}
    while True:
        page = await read(client, GROUPS, limit=3, **after)
        found += page["groups"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(found) == names and len(found) == len(names)
    assert sorted((await read(client, GROUPS, prefix="a"))["groups"]) == ["a", "a%", "a_b", "ab"]
    assert (await read(client, GROUPS, prefix="a%"))["groups"] == ["a%"]
    assert (await read(client, GROUPS, prefix="日", at=1))["groups"] == ["日本"]
    assert (await read(client, ITEMS, group="b/c", id="x"))["item"]["id"] == "x"


async def test_history_comes_in_pages_and_spans(client: httpx.AsyncClient, sql: asyncpg.Connection[Any]) -> None:
    """Every change of a group or an item, in the feed's order, with the transaction that made it."""
    written = [await write(sql, ("g", "a", n), ("g", "b", n), ("h", "a", n)) for n in range(3)]
    whole = await read(client, HISTORY, group="g", wait_for=written[-1])
    assert [
        (one["position"], one["id"], one["op"], one["data"]["n"], one["transaction"]) for one in whole["changes"]
    ] == [(n + 1, id, "update" if n else "create", n, written[n]) for n in range(3) for id in ("a", "b")]
    assert (whole["next"], whole["floor"], whole["position"]) == (None, 0, 3)
    paged: list[Any] = []
    after: dict[str, Any] = {}
    while True:
        page = await read(client, HISTORY, group="g", limit=4, **after)
        paged += page["changes"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert paged == whole["changes"]
    of_a = (await read(client, HISTORY, group="g", id="a", begin=2, to=2))["changes"]
    assert [(one["position"], one["id"]) for one in of_a] == [(2, "a")]
    after_first = await read(client, HISTORY, group="g", id="a", begin=whole["changes"][0]["at"])
    assert [one["position"] for one in after_first["changes"]] == [2, 3]
    assert [one["position"] for one in (await read(client, HISTORY, group="h", at=1))["changes"]] == [1]
    nothing_yet = await read(client, HISTORY, group="g", begin=4, to=3)  # as who follows by reads asks
    assert (nothing_yet["changes"], nothing_yet["position"]) == ([], 3)


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (ITEMS, "", (400, "query_invalid")),
        (ITEMS, "group=", (400, "query_invalid")),
        (ITEMS, "group=g&group=h", (400, "query_invalid")),
        (ITEMS, "group=g&grp=h", (400, "query_invalid")),
        (ITEMS, "group=%ff", (400, "query_invalid")),
        (ITEMS, "group=a%00", (400, "query_invalid")),
        (ITEMS, f"group={'x' * 1025}", (400, "query_invalid")),
        (ITEMS, "group=g&limit=0", (400, "query_invalid")),
        (ITEMS, "group=g&limit=1001", (400, "query_invalid")),
        (ITEMS, "group=g&limit=ten", (400, "query_invalid")),
        (ITEMS, "group=g&at=yesterday", (400, "query_invalid")),
        (ITEMS, "group=g&at=2026-01-01T00:00:00", (400, "query_invalid")),
        (ITEMS, "group=g&at=-1", (400, "query_invalid")),
        (ITEMS, "group=g&at=9223372036854775808", (400, "query_invalid")),
        (ITEMS, "group=g&at=9223372036854775807", (409, "position_foreign")),
        (ITEMS, "group=g&at=2000-01-01T00:00:00%2B01:00", (410, "position_too_old")),
        (ITEMS, "group=g&at=2000-01-01T00:00:00+01:00", (410, "position_too_old")),
        (ITEMS, "group=g&at=1", (410, "position_too_old")),
        (GROUPS, "at=1", (410, "position_too_old")),
        (HISTORY, "group=g&to=1", (410, "position_too_old")),
        (HISTORY, "group=g&from=2", (410, "position_too_old")),
        (HISTORY, "group=g&from=9", (409, "position_foreign")),
        (HISTORY, "group=g&from=5&to=3", (400, "query_invalid")),
        (HISTORY, "group=g&from=5&at=3", (400, "query_invalid")),
        (HISTORY, "group=g&from=2100-01-01T00:00:00Z&to=3", (400, "query_invalid")),
        (HISTORY, "group=g&from=2101-01-01T00:00:00Z&to=2100-01-01T00:00:00Z", (400, "query_invalid")),
        (HISTORY, "group=g&after=1", (400, "query_invalid")),
        (HISTORY, "group=g&after=1.99999999999999999999", (400, "query_invalid")),
        (ITEMS, "group=g&wait_for=", (400, "query_invalid")),
        (ITEMS, "group=g&wait_for=0", (400, "query_invalid")),
        (ITEMS, "group=g&wait_for=abc", (400, "query_invalid")),
        (ITEMS, "group=g&wait_for=position:", (400, "query_invalid")),
        (ITEMS, "group=g&wait_for=9999999999", (400, "query_invalid")),
        (ITEMS, "group=g&wait_for=18446744073709551615", (400, "query_invalid")),
        (ITEMS, "group=g&wait_for=99999999999999999999", (400, "query_invalid")),
        ("/live/streams/nothing/items", "group=g", (404, "stream_unknown")),
        ("/live/streams/note_history/items", "group=g", (404, "stream_unknown")),
    ],
)
async def test_what_can_t_be_answered_is_refused(
    client: httpx.AsyncClient, sql: asyncpg.Connection[Any], path: str, query: str, expected: tuple[int, str]
) -> None:
    """With a status and a code; two commits of four are removed."""
    for n in range(4):
        mine = await write(sql, ("g", "a", n))
    await read(client, ITEMS, group="g", wait_for=mine)
    await sql.execute("delete from streams.change c using streams.commit n where n.xid = c.xid and n.number <= 2")
    await sql.execute("delete from streams.commit where number <= 2")
    answer = await client.get(f"{path}?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == expected, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "\n" not in answer.json()["error"]["message"]


async def test_what_is_not_kept_is_told(client: httpx.AsyncClient, sql: asyncpg.Connection[Any]) -> None:
    """In a list as null; asked for alone, by an error."""
    await write(sql, ("g", "a", 1))
    await write(sql, ("g", "b", 1))
    last = await write(sql, ("g", "a", 2))
    await read(client, ITEMS, group="g", wait_for=last)
    await sql.execute("delete from streams.change c using streams.commit n where n.xid = c.xid and n.number <= 1")
    await sql.execute("delete from streams.commit where number <= 1")
    answer = await read(client, ITEMS, group="g", at=2)
    assert answer["items"] == [
        {"id": "a", "version": 1, "data": None}, {"id": "b", "version": 1, "data": {"id": "b", "n": 1}}
    ]  # fmt: skip
    assert await error_of(client, ITEMS, group="g", id="a", at=2) == (410, "item_not_kept")


async def test_what_was_erased_is_told(client: httpx.AsyncClient, sql: asyncpg.Connection[Any]) -> None:
    """It was there, and is not shown as an item with nothing in it; one of nothing but its id is another thing."""
    await write(sql, ("g", "a", 1))
    await write(sql, ("g", "a", 2), ("g", "c", 1))
    await sql.execute("insert into streams.note (group_id, id, data) values ('g', 'b', '{}')")
    async with sql.transaction():
        await sql.execute("select streams.erase('note', 'g', 'a')")
        mine = await sql.fetchval("select pg_current_xact_id()::text")
    history = await read(client, HISTORY, group="g", wait_for=mine)
    assert [(one["op"], one["id"]) for one in history["changes"] if "erased" in one] == [
        ("create", "a"), ("update", "a"), ("delete", "a")
    ]  # fmt: skip
    assert len(history["changes"]) == 5
    assert history["changes"][0]["data"] == {"id": "a"}
    a, b, c = (await read(client, ITEMS, group="g", at=3))["items"]
    assert a == {"id": "a", "version": 2, "data": None, "erased": True}
    assert b == {"id": "b", "version": 1, "data": {"id": "b"}} and c["data"]["n"] == 1
    refused = await client.get(ITEMS, params={"group": "g", "id": "a", "at": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (410, "item_not_kept")
    assert "erased" in refused.json()["error"]["message"]
    await sql.execute("delete from streams.change c using streams.commit n where n.xid = c.xid and n.number <= 2")
    await sql.execute("delete from streams.commit where number <= 2")
    a, *_ = (await read(client, ITEMS, group="g", at=3))["items"]  # told by its deletion
    assert a == {"id": "a", "version": 2, "data": None, "erased": True}
    assert [item["id"] for item in (await read(client, ITEMS, group="g"))["items"]] == ["b", "c"]


async def test_an_item_is_erased_when_its_deletion_has_a_number(
    client: httpx.AsyncClient, sql: asyncpg.Connection[Any], tidelog_database_url: str
) -> None:
    """Until then a read waits: what the item was before is gone, and that it is gone is not to be told yet."""
    mine = await write(sql, ("g", "a", 1), ("g", "b", 1))
    await read(client, ITEMS, group="g", wait_for=mine)
    stopper = await asyncpg.connect(tidelog_database_url)
    async with stopper.transaction():
        await stopper.execute(STOP_NUMBERING)
        await sql.execute("select streams.erase('note', 'g', 'a')")
        reading = asyncio.create_task(read(client, ITEMS, group="g"))
        assert not (await asyncio.wait([reading], timeout=0.1))[0]
    await stopper.close()
    assert ns(await reading) == {"b": 1}


async def test_what_waits_for_a_transaction_ends(client: httpx.AsyncClient, sql: asyncpg.Connection[Any]) -> None:
    """Also for one that changed nothing, sent only an event, was rolled back, or is at work; and for a position."""
    await write(sql, ("g", "a", 1))
    nothing = str(await sql.fetchval("select pg_current_xact_id()"))
    assert (await read(client, ITEMS, group="g", wait_for=nothing))["position"] <= 1
    event = str(
        await sql.fetchval("select pg_current_xact_id() from (select streams.send('note', 'g', null, 'x', '{}')) s")
    )
    assert (await read(client, "/live/streams", wait_for=event))["position"] == 2
    async with sql.transaction():
        mine = await sql.fetchval("select pg_current_xact_id()")
        await sql.execute(SET, "g", "a", 2)
        waiting = asyncio.create_task(read(client, ITEMS, group="g", wait_for=str(mine)))
        assert not (await asyncio.wait([waiting], timeout=0.05))[0]
    async with asyncio.timeout(WAIT_SECONDS):
        assert ns(await waiting) == {"a": 2}
    rolled_back = sql.transaction()
    await rolled_back.start()
    aborted = await write(sql, ("g", "a", 3))
    await rolled_back.rollback()
    assert await error_of(client, ITEMS, group="g", wait_for=aborted) == (409, "transaction_aborted")
    assert (await read(client, ITEMS, group="g", wait_for="position:3"))["position"] == 3


async def test_the_document_has_the_reads(client: httpx.AsyncClient) -> None:
    """With their parameters, below the plugin's path."""
    document = (await client.get("/schema/openapi.json")).json()
    names = [one["name"] for one in document["paths"]["/live/streams/{stream}/items"]["get"]["parameters"]]
    assert names == ["stream", "group", "id", "after", "limit", "at", "wait_for"]
    assert {"/live/streams", "/live/streams/{stream}/groups", "/live/streams/{stream}/history"} <= set(
        document["paths"]
    )
    streams = await read(client, "/live/streams")
    assert [one["name"] for one in streams["streams"]] == ["note", "other"]
    assert streams["streams"][0]["schema"] == {"type": "object"}


async def test_a_setting_leaves_the_reads_of_a_server_out(start_server: StartServer) -> None:
    """And of its document."""
    server = await start_server(TIDELOG_READS="off")
    async with server.http() as http:
        assert (await http.get("/streams")).status_code == 404
        assert (await http.get("/streams/chatMessage/groups")).status_code == 404
        document = (await http.get("/schema/openapi.json")).json()
    assert document["paths"] and not [path for path in document["paths"] if path.startswith("/streams")]


def test_a_route_of_the_application_s_own_is_told() -> None:
    """Instead of being hidden, or hiding ours; without reads there is nothing to tell."""

    @get("/streams")
    async def mine() -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match=r"reads=False"):
        Litestar([mine], plugins=[TidelogPlugin(TidelogConfig(database_url="postgresql://x@/x"))])
    Litestar([mine], plugins=[TidelogPlugin(TidelogConfig(database_url="postgresql://x@/x", reads=False))])


async def test_a_flood_of_reads_is_refused_in_part(tidelog_served: ServedApp, client: httpx.AsyncClient) -> None:
    """Who finds no place is told to come back, at once; the others are served when there is room."""
    [plugin] = plugins_of(tidelog_served.app)
    pool = plugin.tidelog.database.reads_pool
    held = [await pool.acquire() for _ in range(pool.get_max_size())]
    asked = [asyncio.create_task(client.get("/live/streams")) for _ in range(70)]
    refused = await asyncio.wait(asked, timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result().json()["error"]["code"] for task in refused[0]} == {"reads_busy"}
    assert all(task.result().headers["retry-after"] for task in refused[0])
    for connection in held:
        await pool.release(connection)
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200, 503}


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
@pytest.mark.parametrize(("path", "name"), [(ITEMS, "at"), (GROUPS, "at"), (HISTORY, "from"), (HISTORY, "to")])
async def test_a_time_that_utc_does_not_have_is_refused(
    client: httpx.AsyncClient, path: str, name: str, time: str
) -> None:
    given = {name: time} if path == GROUPS else {name: time, "group": "g"}
    answer = await client.get(path, params=given)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "query_invalid")


async def test_a_position_that_was_never_told_is_not_waited_for(
    client: httpx.AsyncClient, sql: asyncpg.Connection[Any]
) -> None:
    """It comes from another database, or from nowhere: whoever waits for it would have a place for nothing."""
    await write(sql, ("g", "a", 1))
    answer = await client.get(ITEMS, params={"group": "g", "wait_for": "position:9000000000000000000"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "position_foreign")


async def test_reads_of_a_stream_that_was_renamed_say_that_it_cannot_be_read(
    client: httpx.AsyncClient, sql: asyncpg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Until its servers are restarted; in a line of the log each, with no trace of a fault of ours."""
    await sql.execute("select streams.rename_stream('note', 'renamed', 'renamed')")
    for path, parameters in ((ITEMS, {"group": "g"}), (ITEMS, {"group": "g", "at": 0}), (GROUPS, {})):
        answer = await client.get(path, params=parameters)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stream_unreadable")
    assert "Traceback" not in caplog.text
