"""What comes in with a request and can't be stored is the client's to mend; an odd item that is stored hurts nobody."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step
from tidelog.json_text import parse, write

DIGITS = "7" * 20_000  # Python's int() ends at 4300
DEEP = "[" * 3000 + "]" * 3000  # Python's json ends at 1000, and pydantic at 255
ODD = {
    "digits": f'{{"text": "a", "n": {DIGITS}}}',
    "deep": f'{{"text": "b", "n": {DEEP}}}',
    "fraction": '{"text": "c", "n": 1e400}',
    "half": '{"text": "d", "n": 12345678901234567890.5e390}',
}


@pytest.fixture(scope="module")
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def store(req: dict[str, Any], context: Any) -> Any:
    """Hands all of its request on as it is."""
    query, body = req["queryParams"], req["body"]
    group = query.get("group", "g") if isinstance(body, dict) else body
    item = await context.streams.chatMessage.set(group, req["pathParams"]["id"], body)
    return {"status": 201, "body": item}


LONG = "x" * 1025
STORE_AT = "/items/:id"


@pytest.mark.parametrize(
    ("url", "body", "code"),
    [
        (f"/items/{LONG}", b'{"text": "a"}', "key_invalid"),
        (f"/items/{'%C3%A9' * 513}", b'{"text": "a"}', "key_invalid"),
        (f"/items/a?group={LONG}", b'{"text": "a"}', "key_invalid"),
        ("/items/a?group=", b'{"text": "a"}', "key_invalid"),
        ("/items/a?group=x&group=y", b'{"text": "a"}', "key_invalid"),
        ("/items/a", b"[1]", "key_invalid"),
        ("/items/a", b"{}", "item_invalid"),
        ("/items/a", b'{"text": 5}', "item_invalid"),
        ("/items/a", b'{"text": null}', "item_invalid"),
        ("/items/a", b'{"text": "%s"}' % (b"\\u00e9" * 1600), None),
        ("/items/a", b'{"text": "\\u0000"}', "body_invalid"),
        ("/items/a", b'{"text": "a", "n": 1e400}', "body_invalid"),
        ("/items/a", b'{"text": "a", "n": %s}' % (b"1" * 5000), "body_invalid"),
        ("/items/a", b'{"text": "a", "n": %s}' % (b"1" * 4000), None),
        ("/items/a", b'{"text": "a", "n": %s%s}' % (b"[" * 1200, b"]" * 1200), "body_invalid"),
        ("/items/a", b'{"text": "a", "n": %s%s}' % (b"[" * 190, b"]" * 190), None),
        ("/items/a?group=%00", b'{"text": "a"}', "query_invalid"),
    ],
)
async def test_what_the_client_sent_and_cannot_be_stored_is_400(
    kit: StepKit, url: str, body: bytes, code: str | None
) -> None:
    """With a code, as the client can mend it; what can be stored is, and comes back."""
    async with kit.client(step(store, path=STORE_AT)) as client:
        answer = await client.post(url, content=body, headers={"content-type": "application/json"})
    if code is None:
        assert answer.status_code == 201 and parse(answer.text) == {**parse(body.decode()), "id": "a"}
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


async def test_a_text_that_is_too_large_for_an_item_is_400(kit: StepKit) -> None:
    """The body was just within the limit, and the step put a little to it."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        item = {"text": req["body"]["text"], "author": "ada", "note": "n" * 100}
        return {"status": 201, "body": await context.streams.chatMessage.set("g", "large", item)}

    answer = await kit.post(handler, json={"text": "x" * 9_950})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "item_invalid")


@pytest.mark.parametrize("write", ["set", "send"])
@pytest.mark.parametrize(
    ("numbers", "status"), [("1e+300, " * 60 + "1", 201), ("1e+300, " * 100 + "1", 400), ("7, " * 2500 + "7", 201)]
)
async def test_what_grows_too_large_in_the_database_is_the_clients_to_mend(
    kit: StepKit, write: str, numbers: str, status: int
) -> None:
    """A number of 300 digits comes in six characters; what only gets spaces is as large as it came."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        stream, numbers = context.streams.chatMessage, req["body"]["n"]
        if write == "set":
            await stream.set("g", "numbers", {"text": "a", "n": numbers})
        else:
            await stream.send({"groupId": "g"}, {"type": "numbers", "data": numbers})
        return {"status": 201, "body": "ok"}

    async with kit.client(step(handler)) as client:
        answer = await client.post("/run", content=f'{{"n": [{numbers}]}}')
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"]["code"] == "item_invalid"
        assert "bytes as JSON text; at most 20000 are taken" in answer.json()["error"]["message"]


async def test_an_item_too_deep_for_its_readers_is_the_steps_own_fault(kit: StepKit) -> None:
    """As the refusals are that come before the database; nothing of it is stored, and the next step is served."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "beside", {"text": "a"})
        await context.streams.chatMessage.set("g", "deep", {"text": "a", "n": parse("[" * 300 + "]" * 300)})

    answer = await kit.post(handler)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "item_invalid")
    assert await kit.query("select id from streams.chat_message where id in ('beside', 'deep')") == []


async def test_a_constraint_of_the_authors_own_is_no_limit_of_ours(kit: StepKit) -> None:
    """Its error is the database's, and the step's to handle."""

    caught: list[str | None] = []

    async def handler(req: dict[str, Any], context: Any) -> Any:
        try:
            await context.streams.chatMessage.set("g", "checked", {"text": "forbidden"})
        except asyncpg.CheckViolationError as error:
            caught.append(error.constraint_name)

    connection = await asyncpg.connect(kit.url)
    try:
        await connection.execute(
            "alter table streams.chat_message add constraint polite check (data ->> 'text' <> 'forbidden') not valid"
        )
        await kit.post(handler)
        await connection.execute("alter table streams.chat_message drop constraint polite")
    finally:
        await connection.close()
    assert caught == ["polite"]


async def test_violations_of_the_streams_schema_say_where(kit: StepKit) -> None:
    """As those of a bodySchema do."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "v", {"text": req["body"]["said"], "author": "ada"})

    answer = await kit.post(handler, json={"said": {"no": "text"}})
    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == [{"path": "/text", "message": '{"no":"text"} is not of type "string"'}]


@pytest.mark.parametrize(
    ("type", "status"),
    [("", 400), ("x" * 257, 400), ("é" * 129, 400), (5, 400), (None, 400), ("é" * 128, 200), ("x" * 256, 200)],
)
async def test_an_events_type_that_the_client_sent_and_cannot_be_one_is_400(
    kit: StepKit, type: Any, status: int
) -> None:
    """It is refused here, and not by the database: an error there is the step's, and undoes its transaction."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.send({"groupId": "g"}, {"type": req["body"]["type"], "data": {}})
        return {"status": 200}

    answer = await kit.post(handler, json={"type": type})
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["code"] == "item_invalid"


async def test_it_is_400_from_a_group_of_tasks_too(kit: StepKit) -> None:
    """asyncio.TaskGroup raises a group of errors."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(context.streams.chatMessage.set(req["body"]["id"], "a", {"text": "a"}))

    answer = await kit.post(handler, json={"id": LONG})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "key_invalid")


async def test_what_the_step_made_itself_stays_its_own_error(kit: StepKit, caplog: pytest.LogCaptureFixture) -> None:
    """A key that it put together, a field that it forgot, a value that the client never sent: 500, and logged."""

    async def key(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", f"user-{'x' * 1025}", {"text": "a"})

    async def missing_key(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", req["body"].get("id"), {"text": "a"})

    async def field(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "a", {"said": req["body"]["text"]})

    async def value(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "a", {"text": len(req["body"]["text"])})

    async def no_number(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "a", {"text": req["body"]["text"], "n": float("inf")})

    async def deep(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", "a", {"text": "a", "n": parse(DEEP)})

    async def huge_key(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("g", 10**5000, {"text": "a"})

    handlers = {"key_invalid": (key, missing_key, huge_key), "item_invalid": (field, value, no_number, deep)}
    with caplog.at_level(logging.ERROR):
        for code, those in handlers.items():
            for handler in those:
                caplog.clear()
                answer = await kit.post(handler, json={"text": "hello"})
                assert (answer.status_code, answer.json()["error"]["code"]) == (500, code), handler.__name__
                assert len(caplog.records) == 1


@pytest.fixture
async def odd_group(kit: StepKit, request: pytest.FixtureRequest) -> str:
    """A group with an ordinary item at each end and odd ones between, stored by SQL before it was refused."""
    group = request.node.name
    connection = await asyncpg.connect(kit.url)
    try:
        await connection.execute("alter table streams.chat_message disable trigger tidelog_record")
        for id, data in {"first": '{"text": "1"}', **ODD, "last": '{"text": "2"}'}.items():
            await connection.execute(
                "insert into streams.chat_message (group_id, id, data) values ($1, $2, $3::text::jsonb)",
                group,
                id,
                data,
            )
        await connection.execute("alter table streams.chat_message enable always trigger tidelog_record")
    finally:
        await connection.close()
    return group


async def test_an_odd_item_keeps_nobody_from_reading_its_group(kit: StepKit, odd_group: str) -> None:
    """Every item is listed, read and answered as it is stored: huge and deep ones are just that."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        stream = context.streams.chatMessage
        items = await stream.get_group(odd_group)
        one_by_one = [await stream.get(odd_group, item["id"]) for item in items]
        assert [str(item["id"]) for item in one_by_one] == [str(item["id"]) for item in items]
        return {"status": 200, "body": items}

    answer = await kit.post(handler)
    assert answer.status_code == 200
    items = {item["id"]: item for item in parse(answer.text)}
    assert list(items) == ["first", *ODD, "last"]
    stored = await kit.query("select data::text from streams.chat_message where group_id = $1", odd_group)
    assert {item["id"]: str_of(item["n"]) for item in items.values() if "n" in item} == {
        item["id"]: str_of(item["n"]) for item in map(parse, stored) if "n" in item
    }
    assert f'"n":{DIGITS}' in answer.text and f'"n":{DEEP}' in answer.text


def str_of(value: Any) -> str:
    """Numbers and arrays that Python can't compare or show."""
    return write(value, repr)


async def test_an_odd_item_can_be_replaced_and_deleted(kit: StepKit, odd_group: str) -> None:
    """What is answered is the item as it was, or as it is now."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        stream = context.streams.chatMessage
        replaced = await stream.set(odd_group, "digits", {"text": "plain"})
        return {"status": 200, "body": [replaced, await stream.delete(odd_group, "deep")]}

    answer = await kit.post(handler)
    assert answer.status_code == 200
    replaced, deleted = parse(answer.text)
    assert replaced == {"id": "digits", "text": "plain"}
    assert str_of(deleted["n"]) == DEEP


async def test_a_body_that_is_deep_or_huge_is_checked_against_its_response_schema(
    kit: StepKit, caplog: pytest.LogCaptureFixture
) -> None:
    """It is JSON, and fits, whatever pydantic says to its depth."""

    async def handler(req: dict[str, Any]) -> Any:
        return {"status": 200, "body": {"deep": parse(DEEP), "digits": parse(DIGITS)}}

    with caplog.at_level(logging.WARNING):
        answer = await kit.post(handler, response_schemas={200: {"required": ["deep"]}})
    assert answer.status_code == 200 and not caplog.records


async def test_a_refusal_is_short_however_long_the_value(kit: StepKit) -> None:
    """A few hundred characters for each violation, not the value again."""
    schema = {"additionalProperties": {"type": "integer"}}
    async with kit.client(step(store, path=STORE_AT, body_schema=schema)) as client:
        for body in ({"a": "x" * 9_000}, {"n" * 9_000: "x"}, {str(n): "x" for n in range(500)}):
            answer = await client.post("/items/a", content=json.dumps(body))
            assert answer.status_code == 400 and len(answer.content) < 10_000
