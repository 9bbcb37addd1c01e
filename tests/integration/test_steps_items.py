"""What a step can do with items beside get, set and delete: updates that lose nothing, versions, pages, queries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from tests.integration.step_fixtures import STREAM, StepKit, StepTemplate, open_steps, step
from tidelog.errors import ItemConflictError, ItemInvalidError, OperationInvalidError
from tidelog.store.autocommit import StepAutocommit
from tidelog.store.items import Items
from tidelog.store.share import Share

OK = {"status": 200, "body": "ok"}

both = pytest.mark.parametrize("transaction", [True, False])


@pytest.fixture
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def runs(kit: StepKit, handler: Any, **parts: Any) -> Any:
    """What a handler returned."""

    async def answering(req: dict[str, Any], context: Any) -> Any:
        return {"status": 200, "body": {"returned": await handler(context.streams.chatMessage)}}

    answer = await kit.post(answering, **parts)
    assert answer.status_code == 200, answer.text
    return answer.json()["returned"]


@both
async def test_two_hundred_increments_at_once_end_at_two_hundred(kit: StepKit, transaction: bool) -> None:
    """Also of an item that isn't there when they begin: none is lost, and no answer is an older one."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        item = await context.streams.chatMessage.update(
            "g", "counter", [{"type": "increment", "path": "n"}, {"type": "set", "path": "text", "value": "t"}]
        )
        return {"status": 200, "body": item["n"]}

    async with kit.client(step(handler, transaction=transaction)) as client:
        answers = await asyncio.gather(*(client.post("/run") for _ in range(200)))
    assert sorted(answer.json() for answer in answers) == list(range(1, 201))
    assert await kit.query("select (data ->> 'n')::int from streams.chat_message") == [200]
    assert await kit.query("select count(*) from streams.change") == [200]


@both
@pytest.mark.parametrize("how", ["create", "if_version"])
async def test_of_many_who_create_one_item_one_wins(kit: StepKit, transaction: bool, how: str) -> None:
    """The others get a clear error, which a step that lets it through answers with 409."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat, data = context.streams.chatMessage, {"text": req["body"]["who"]}
        item = await (chat.create("g", "1", data) if how == "create" else chat.set("g", "1", data, if_version=0))
        return {"status": 201, "body": item}

    async with kit.client(step(handler, transaction=transaction)) as client:
        answers = await asyncio.gather(*(client.post("/run", json={"who": str(n)}) for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 19]
    refused = next(answer.json()["error"] for answer in answers if answer.status_code == 409)
    assert refused["code"] == "item_conflict" and "has version 1" in refused["message"]
    (winner,) = (answer.json() for answer in answers if answer.status_code == 201)
    assert await kit.query("select data ->> 'text' from streams.chat_message") == [winner["text"]]


@both
async def test_a_version_guards_set_and_delete(kit: StepKit, transaction: bool) -> None:
    """An item says its version; with another one nothing is stored, and nothing else of the item is told."""

    async def handler(chat: Any) -> Any:
        first = await chat.set("g", "1", {"text": "a"})
        second = await chat.set("g", "1", {"text": "b"}, if_version=first.version)
        assert (first.version, second.version, second.group_id, second.stream) == (1, 2, "g", "chatMessage")
        for call in (
            chat.set("g", "1", {"text": "c"}, if_version=1),
            chat.set("g", "2", {"text": "c"}, if_version=1),
            chat.delete("g", "1", if_version=1),
            chat.delete("g", "2", if_version=1),
            chat.create("g", "1", {"text": "c"}),
        ):
            with pytest.raises(ItemConflictError):
                await call
        for version in (-1, True, "1", 1.0):
            with pytest.raises(OperationInvalidError, match="if_version"):
                await chat.set("g", "1", {"text": "c"}, if_version=version)
        assert await chat.get("g", "1") == {"text": "b", "id": "1"}
        return await chat.delete("g", "1", if_version=2)

    assert (await runs(kit, handler, transaction=transaction))["text"] == "b"
    assert await kit.ids() == []


@both
async def test_an_update_that_does_not_fit_changes_nothing(kit: StepKit, transaction: bool) -> None:
    """The schema is asked about what comes of it. What is wrong in the request is the client's fault."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        await chat.set("g", "1", {"text": "a"})
        for operations in ([{"type": "set", "path": "text", "value": 5}], [{"type": "remove", "path": "text"}]):
            with pytest.raises(ItemInvalidError):
                await chat.update("g", "1", operations)
        with pytest.raises(ItemInvalidError):
            await chat.patch("g", "1", [{"op": "replace", "path": "/text", "value": 5}])
        assert await chat.get("g", "1") == {"text": "a", "id": "1"}
        await chat.update("g", "1", req["body"])
        return OK

    answer = await kit.post(handler, transaction=transaction, json=[{"type": "increment", "path": "text"}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "operation_invalid")
    answer = await kit.post(handler, transaction=transaction, json=[{"type": "add", "path": "text"}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "operation_invalid")


@both
async def test_patches_change_an_item_in_one_piece(kit: StepKit, transaction: bool) -> None:
    """By the two RFCs, and by Motia's operations; the version tells each."""

    async def handler(chat: Any) -> Any:
        await chat.merge_patch("g", "1", {"text": "a", "tags": ["x"], "by": {"name": "ada", "age": 36}})
        await chat.merge_patch("g", "1", {"by": {"age": None}})
        await chat.patch(
            "g", "1", [{"op": "test", "path": "/text", "value": "a"}, {"op": "add", "path": "/tags/-", "value": "y"}]
        )
        with pytest.raises(OperationInvalidError, match="RFC 6902"):
            await chat.patch("g", "1", [{"op": "remove", "path": "/text"}, {"op": "test", "path": "/tags", "value": 1}])
        item = await chat.update("g", "1", [{"type": "merge", "path": "by", "value": {"at": 1}}])
        return [item, item.version]

    item, version = await runs(kit, handler, transaction=transaction)
    assert item == {"id": "1", "text": "a", "tags": ["x", "y"], "by": {"name": "ada", "at": 1}}
    assert version == 4


@both
async def test_an_update_takes_effect_in_the_order_of_the_calls(kit: StepKit, transaction: bool) -> None:
    """Though it is two statements, nothing that was called later comes between."""

    async def handler(chat: Any) -> Any:
        chat.set("g", "1", {"text": "a", "n": 1})
        for _ in range(5):
            chat.update("g", "1", [{"type": "increment", "path": "n", "by": 2}])
        chat.set("g", "2", {"text": "between"})
        chat.update("g", "1", {"type": "decrement", "path": "n"})
        return await chat.get("g", "1")

    assert (await runs(kit, handler, transaction=transaction))["n"] == 10
    written = await kit.query("select coalesce(data ->> 'n', data ->> 'text') from streams.change order by seq")
    assert written == ["1", "3", "5", "7", "9", "11", "between", "10"]


async def test_an_update_waits_for_a_step_that_has_the_item(kit: StepKit) -> None:
    """And goes on from what that one stored, also if it deleted the item and made it anew."""
    other = await asyncpg.connect(kit.url)
    await kit.query(
        "insert into streams.chat_message (group_id, id, data) values ('g', '1', '{\"text\": \"\", \"n\": 1}')"
    )

    async def handler(req: dict[str, Any], context: Any) -> Any:
        item = await context.streams.chatMessage.update("g", "1", [{"type": "increment", "path": "n"}])
        return {"status": 200, "body": item}

    async with kit.client(step(handler), step(handler, path="/free", transaction=False)) as client:
        async with other.transaction():
            await other.execute("delete from streams.chat_message")
            await other.execute(
                "insert into streams.chat_message (group_id, id, data) values ('g', '1', '{\"text\": \"\", \"n\": 40}')"
            )
            posting = [asyncio.create_task(client.post(path)) for path in ("/run", "/free")]
            waiting = (
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
            while await kit.query(waiting) != [2]:
                pass
        assert sorted([(await one).json()["n"] for one in posting]) == [41, 42]
    await other.close()


@both
async def test_a_group_is_read_page_by_page(kit: StepKit, transaction: bool) -> None:
    """Forth and back; each item once, whatever comes and goes meanwhile."""

    async def handler(chat: Any) -> Any:
        for n in range(5):
            await chat.set("g", str(n), {"text": str(n)})
        await chat.set("h", "0", {"text": "other"})
        first = await chat.get_group("g", limit=2)
        await chat.delete("g", "1")
        second = await chat.get_group("g", limit=2, after=first[-1])
        last = await chat.get_group("g", limit=2, after=second[-1]["id"])
        back = await chat.list("g", order="desc", after=last[-1], limit=10)
        with pytest.raises(ItemConflictError, match="go on after"):
            await chat.get_group("g", after="1")
        for wrong in ({"limit": 0}, {"limit": True}, {"order": "up"}, {"limit": 10_001}):
            with pytest.raises(OperationInvalidError):
                await chat.get_group("g", **wrong)
        return [[item["id"] for item in page] for page in (first, second, last, back)]

    pages = await runs(kit, handler, transaction=transaction)
    assert pages == [["0", "1"], ["2", "3"], ["4"], ["3", "2", "0"]]


async def test_groups_and_all_items_are_listed_and_counted(kit: StepKit) -> None:
    """By their keys, page by page; a group is cleared as a whole."""

    async def handler(chat: Any) -> Any:
        for group in "bca":
            for n in range(2):
                await chat.set(group, str(n), {"text": "x"})
        keys = [(item.group_id, item["id"]) for item in await chat.list_all()]
        page = await chat.list_all(limit=3, after=("a", "1"))
        rest = await chat.list_all(after=page[-1])
        return {
            "keys": keys,
            "pages": [[item.group_id for item in items] for items in (page, rest)],
            "groups": [await chat.list_groups(), await chat.list_groups(limit=1, after="a")],
            "counts": [await chat.count(), await chat.count("a"), await chat.count("none")],
            "cleared": [await chat.clear("b"), await chat.clear("b"), await chat.list_groups()],
        }

    assert await runs(kit, handler) == {
        "keys": [[group, id] for group in "abc" for id in "01"],
        "pages": [["b", "b", "c"], ["c"]],
        "groups": [["a", "b", "c"], ["b"]],
        "counts": [6, 2, 0],
        "cleared": [2, 0, ["a", "c"]],
    }


ITEMS: list[dict[str, Any]] = [
    {"text": "a", "n": 1, "by": {"name": "ada"}, "tags": ["x", "y"]},
    {"text": "b", "n": 2.5, "by": {"name": "bob"}, "tags": []},
    {"text": "c", "n": "3", "by": None, "a.b": True, "it's": 1},
    {"text": "d", "n": True},
]


CASES: list[tuple[Any, str]] = [
    ({}, "0123"),
    ({"n": 1}, "0"),
    ({"n": 1.0, "text": "a"}, "0"),
    ({"n": {"gte": 1}}, "01"),
    ({"n": {"gt": 1, "lt": 3}}, "1"),
    ({"text": {"gt": "b", "lte": "d"}}, "23"),
    ({"by.name": "bob"}, "1"),
    ({("by", "name"): {"in": ["ada", "eve"]}}, "0"),
    ({"by": {"eq": {"name": "ada"}}}, "0"),
    ({"by": None}, "23"),
    ({"by": {"ne": None}}, "01"),
    ({"n": {"ne": 1}}, "123"),
    ({"n": {"in": []}}, ""),
    ({"tags": {"contains": ["y"]}}, "0"),
    ({"": {"contains": {"by": {"name": "bob"}}}}, "1"),
    ({"tags": {"exists": False}}, "23"),
    ({("a.b",): True}, "2"),
    ({("it's",): 1}, "2"),
    ({("x' or true --",): {"exists": True}}, ""),
    ({"text": "' or true --"}, ""),
]


async def test_a_query_finds_what_its_conditions_describe(kit: StepKit) -> None:
    """Values and names are data, whatever they hold."""

    async def handler(chat: Any) -> Any:
        for n, item in enumerate(ITEMS):
            await chat.set("g", str(n), item)
        await chat.set("other", "9", ITEMS[0])
        found = []
        for where, _ in CASES:
            items = await chat.query("g", where=where)
            assert await chat.count("g", where=where) == len(items)
            found.append("".join(item["id"] for item in items))
        return found

    found = await runs(kit, handler)
    assert list(zip((where for where, _ in CASES), found, strict=True)) == CASES


async def test_a_query_is_ordered_and_limited(kit: StepKit) -> None:
    """By fields, up or down; and over all groups."""

    async def handler(chat: Any) -> Any:
        for n, word in enumerate("bdac"):
            await chat.set("g", str(n), {"text": word, "even": n % 2 == 0})
        await chat.set("h", "9", {"text": "z"})
        up = await chat.query("g", order_by="text")
        down = await chat.query("g", order_by="-text", limit=2)
        both = await chat.query("g", order_by=["-even", "text"])
        everywhere = await chat.query(order_by="-text", limit=1)
        for wrong in (
            {"where": []},
            {"where": {"n": {"gt": None}}},
            {"where": {"n": {"$gt": 1}}},
            {"where": {"n": {"gte": 1, "ge ": 1}}},
            {"where": {"by": {"name": "ada"}}},
            {"where": {"n": {}}},
            {"where": {"a\\": 1}},
            {"order_by": 5},
            {"limit": -1},
        ):
            with pytest.raises(OperationInvalidError):
                await chat.query("g", **wrong)
        return ["".join(item["text"] for item in items) for items in (up, down, both, everywhere)]

    assert await runs(kit, handler) == ["abcd", "dc", "abcd"[0:1] + "b" + "cd", "z"]


async def test_a_query_reaches_an_authors_index(kit: StepKit) -> None:
    """An index of a field, by equality and by range; and one of whole items, by what they contain."""
    await kit.query("create index by_n on streams.chat_message ((data #> '{by,name}'))")
    await kit.query("create index by_all on streams.chat_message using gin (data jsonb_path_ops)")

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat, db = context.streams.chatMessage, context.db
        await db.execute(text("set local enable_seqscan = off"))
        scans = []
        for index, where in (
            ("by_n", {"by.name": "ada"}),
            ("by_n", {"by.name": {"gte": "a", "lt": "b"}}),
            ("by_all", {"": {"contains": {"by": {"name": "ada"}}}}),
        ):
            await chat.query(where=where)
            count = text("select pg_stat_get_xact_numscans(cast(:name as regclass))")
            scans.append((await db.execute(count, {"name": f"streams.{index}"})).scalar_one())
        return {"status": 200, "body": scans}

    assert (await kit.post(handler)).json() == [1, 2, 1]


@both
async def test_what_has_expired_is_not_there(kit: StepKit, transaction: bool) -> None:
    """To no operation that reads, deleted already or not; a new one may take its place."""

    async def handler(chat: Any) -> Any:
        await chat.set("g", "old", {"text": "a", "n": 5}, ttl=1e-6)
        await chat.set("g", "new", {"text": "a"}, ttl=3600)
        assert await chat.get("g", "old") is None
        assert [item["id"] for item in await chat.get_group("g")] == ["new"]
        assert [item["id"] for item in await chat.get_group("g", limit=5)] == ["new"]
        assert [item["id"] for item in await chat.query("g")] == ["new"]
        assert [item["id"] for item in await chat.list_all()] == ["new"]
        assert (await chat.count(), await chat.count("g"), await chat.count("g", where={"n": 5})) == (1, 1, 0)
        with pytest.raises(ItemConflictError):
            await chat.set("g", "old", {"text": "b"}, if_version=1)
        assert await chat.delete("g", "old") is None

        await chat.set("h", "old", {"text": "a", "n": 5}, ttl=1e-6)
        assert await chat.list_groups() == ["g"] and await chat.clear("h") == 0
        await chat.set("g", "old", {"text": "a", "n": 5}, ttl=1e-6)
        assert (await chat.create("g", "old", {"text": "b"}))["text"] == "b"
        await chat.set("g", "old", {"text": "a", "n": 5}, ttl=1e-6)
        assert (await chat.update("g", "old", [{"type": "merge", "value": {"text": "c", "n": 1}}]))["n"] == 1
        for wrong in (-1, "1", True, float("nan"), 1e12):
            with pytest.raises(OperationInvalidError, match="ttl"):
                await chat.set("g", "1", {"text": "a"}, ttl=wrong)
        return [item["id"] for item in await chat.get_group("g")]

    assert sorted(await runs(kit, handler, transaction=transaction)) == ["new", "old"]


async def test_a_time_to_live_lasts_until_the_item_is_set_again(kit: StepKit) -> None:
    """Updates leave it as it is; without one an item stays, and so it does with 0."""

    async def handler(chat: Any) -> Any:
        for id, ttl in (("kept", 3600), ("set", 3600), ("never", 0)):
            await chat.set("g", id, {"text": "a"}, ttl=ttl)
        await chat.update("g", "kept", [{"type": "set", "path": "text", "value": "b"}])
        await chat.set("g", "set", {"text": "b"})
        return "ok"

    await runs(kit, handler)
    assert await kit.query("select id from streams.chat_message where expires_at > now()") == ["kept"]


async def test_items_in_answers_say_where_they_are_stored_to_who_asks(kit: StepKit) -> None:
    """By a header, unless the setting says always or never; nothing of it is stored, and a copy is plain."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        chat = context.streams.chatMessage
        item = await chat.set("g", "1", {"text": "a"})
        return {"status": 200, "body": {"item": item, "all": await chat.get_group("g"), "copy": {**item}}}

    plain = {"text": "a", "id": "1"}
    told = {**plain, "__motia": {"type": "state-stream", "streamName": "chatMessage", "groupId": "g", "id": "1"}}
    async with kit.client(step(handler)) as client:
        assert (await client.post("/run")).json() == {"item": plain, "all": [plain], "copy": plain}
        asked = await client.post("/run", headers={"x-motia-metadata": "true"})
        assert asked.json() == {"item": told, "all": [told], "copy": plain}
    kit.settings = kit.settings.model_copy(update={"motia_metadata": True})
    assert (await kit.post(handler)).json() == asked.json()
    kit.settings = kit.settings.model_copy(update={"motia_metadata": False})
    async with kit.client(step(handler)) as client:
        assert (await client.post("/run", headers={"x-motia-metadata": "true"})).json()["item"] == plain
    assert await kit.query("select data::text from streams.change") == ['{"id": "1", "text": "a"}']


async def test_an_exchange_tells_what_was_there(kit: StepKit) -> None:
    """Of many at once each gets what the one before it has stored."""
    items = Items(STREAM, size_max_bytes=10_000)
    share = Share(kit.database.pool, 1)

    async def put(number: int) -> tuple[Any, Any]:
        made = {"text": "t", "n": number}
        before, after = await items.exchange(
            lambda writes: StepAutocommit(share).lend(writes), "g", "1", lambda _: made
        )
        return before and before["n"], after["n"]

    exchanged = dict([await put(-1), *await asyncio.gather(*(put(number) for number in range(20)))])
    chain = [None]
    while chain[-1] in exchanged:
        chain.append(exchanged[chain[-1]])
    assert sorted(chain[1:]) == list(range(-1, 20))


@both
async def test_state_is_kept_as_steps_set_it(kit: StepKit, transaction: bool) -> None:
    """Any JSON; in the shapes of Motia's documents, and in those of its Python runner; in the order of the calls."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        state = context.state
        assert await state.get("g", "x") is None and await state.delete("g", "x") is None
        values = {"a": {"n": 1}, "b": [1, 2], "c": "text", "d": 5, "e": None, "f": {"data": 7}}
        for key, value in values.items():
            state.set("g", key, "overwritten")
            assert await state.set("g", key, value) == value
            assert await state.get("g", key) == value
        assert await state.get_group("g") == await state.getGroup("g") == list(values.values())

        found = await state.get("g", "a")
        assert found["data"] == found.get("data") == {"n": 1} and "data" in found and found["n"] == 1
        assert (await state.get("g", "f"))["data"] == 7
        assert await state.delete("g", "a") == {"n": 1}
        await state.set("h", 1, "an int is a key")
        await state.clear("g")
        assert not hasattr(state, "nope")
        for wrong in (float("nan"), object(), "\0"):
            with pytest.raises(ItemInvalidError):
                await state.set("g", "a", wrong)
        return {"status": 200, "body": [await state.get_group("g"), await state.get_group("h"), found]}

    answer = await kit.post(handler, transaction=transaction)
    assert answer.json() == [[], ["an int is a key"], {"n": 1}]
    assert await kit.query("select count(*) from streams.change") == [0]


async def test_state_is_part_of_the_steps_transaction(kit: StepKit) -> None:
    """What a failing step has set was never there; and plain handlers wait for each answer."""

    async def failing(req: dict[str, Any], context: Any) -> Any:
        await context.state.set("g", "a", 1)
        raise ZeroDivisionError

    def plain(req: dict[str, Any], context: Any) -> Any:
        context.state.set("g", "b", {"n": 1})
        return {"status": 200, "body": context.state.get("g", "b")}

    assert (await kit.post(failing)).status_code == 500
    assert (await kit.post(plain)).json() == {"n": 1}
    assert await kit.query("select key from streams.context_state") == ["b"]
