"""Steps over HTTP: what comes in, what goes out, and what is refused, in one shape."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from litestar.exceptions import PermissionDeniedException
from pydantic import BaseModel, field_validator

from tests.integration.step_fixtures import StepKit, StepTemplate, open_steps, step


@pytest.fixture(scope="module")
async def kit(step_template: StepTemplate) -> AsyncIterator[StepKit]:
    async with open_steps(step_template) as kit:
        yield kit


async def echo(req: dict[str, Any]) -> Any:
    """Returns the request as the handler saw it."""
    return {"status": 200, "body": req}


async def test_a_handler_gets_the_whole_request(kit: StepKit) -> None:
    """Path and query parameters, headers in lower case, the body parsed and raw."""
    async with kit.client(step(echo, path="/rooms/:room/messages/:data")) as client:
        answer = await client.post(
            "/rooms/caf%C3%A9/messages/1?a=1&b=2&b=3&empty=&c=%C3%A9",
            content=b'{"text": "hi"}',
            headers=[("X-Custom", "yes"), ("X-Twice", "1"), ("X-Twice", "2"), ("content-type", "application/json")],
        )
    req = answer.json()
    assert req["pathParams"] == {"room": "café", "data": "1"}
    assert req["queryParams"] == {"a": "1", "b": ["2", "3"], "empty": "", "c": "é"}
    assert (req["headers"]["x-custom"], req["headers"]["x-twice"]) == ("yes", "1, 2")
    assert (req["body"], req["rawBody"]) == ({"text": "hi"}, '{"text": "hi"}')


async def test_two_steps_may_share_a_path_and_name_its_parameters_differently(kit: StepKit) -> None:
    """GET /rooms/:room and POST /rooms/:id are two steps; each gets its own name."""
    steps = (
        step(echo, name="Get", method="GET", path="/rooms/:room"),
        step(echo, name="Post", path="/rooms/:id"),
        step(echo, name="Delete", method="DELETE", path="/rooms/:state"),
        step(echo, name="Put", method="PUT", path="/rooms/fixed"),
    )
    async with kit.client(*steps) as client:
        assert (await client.get("/rooms/a")).json()["pathParams"] == {"room": "a"}
        assert (await client.post("/rooms/a")).json()["pathParams"] == {"id": "a"}
        assert (await client.delete("/rooms/a")).json()["pathParams"] == {"state": "a"}
        assert (await client.put("/rooms/fixed")).json()["pathParams"] == {}


async def test_a_body_that_does_not_fit_is_refused_with_where_and_why(kit: StepKit) -> None:
    """400 with a JSON Pointer and a message for each violation; the handler doesn't run."""

    class Body(BaseModel):
        text: str
        count: int = 0

    async with kit.client(step(echo, body_schema=Body)) as client:
        answer = await client.post("/run", json={"text": 1, "count": "x"})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "body_invalid"
        assert [detail["path"] for detail in error["details"]] == ["/text", "/count"]
        assert all(detail["message"] for detail in error["details"])
        assert (await client.post("/run")).status_code == 400
        assert (await client.post("/run", json={"text": "hi"})).status_code == 200


@pytest.mark.parametrize(
    ("content", "content_type", "hint"),
    [
        (
            b'{"id": "a"}',
            "application/x-www-form-urlencoded",
            "it came as application/x-www-form-urlencoded, and was not",
        ),
        (b'{"id": "a"}', "Text/Plain;charset=UTF-8", "it came as text/plain, and was not read as JSON"),
        (b"{id: a}", None, "it came without a content type, and is not JSON"),
        (b"{}", None, '"id" is a required property'),
        (b"", None, "the request has no body"),
        (b"{}", "application/json", '"id" is a required property'),
        (b"{}", "application/vnd.api+json", '"id" is a required property'),
    ],
)
async def test_a_body_that_was_not_read_as_json_and_does_not_fit_is_told_so(
    kit: StepKit, content: bytes, content_type: str | None, hint: str
) -> None:
    """curl and fetch() send another content type unless they are told; that a property is missing is no help then."""
    schema = {"type": "object", "required": ["id"]}
    headers = {} if content_type is None else {"content-type": content_type}
    async with kit.client(step(echo, body_schema=schema)) as client:
        error = (await client.post("/run", content=content, headers=headers)).json()["error"]
    assert error["code"] == "body_invalid"
    assert hint in error["message"]
    assert ("it came" in error["message"]) == ("it came" in hint)


async def test_a_class_checks_a_body_and_makes_it_whole(kit: StepKit) -> None:
    """Its validators run, its defaults are filled in, and the handler gets plain JSON, also of a form."""

    class Body(BaseModel):
        text: str
        count: int = 1
        at: datetime = datetime(2026, 1, 31, tzinfo=UTC)

        @field_validator("text")
        @classmethod
        def is_said(cls, text: str) -> str:
            if not text.strip():
                raise ValueError("say something")
            return text.strip()

    async def body(req: dict[str, Any]) -> Any:
        return {"status": 200, "body": req["body"]}

    whole = {"text": "hi", "count": 2, "at": "2026-01-31T00:00:00Z"}
    async with kit.client(step(body, body_schema=Body)) as client:
        assert (await client.post("/run", json={"text": " hi ", "count": 2})).json() == whole
        assert (await client.post("/run", data={"text": "hi", "count": "2"})).json() == whole
        answer = await client.post("/run", json={"text": " ", "at": "yesterday"})
    details = answer.json()["error"]["details"]
    assert answer.status_code == 400 and [detail["path"] for detail in details] == ["/text", "/at"]
    assert "say something" in details[0]["message"]


async def test_formats_of_a_body_are_checked(kit: StepKit) -> None:
    """A dict's date-time is one."""
    schema = {"properties": {"at": {"type": "string", "format": "date-time"}}}
    async with kit.client(step(echo, body_schema=schema)) as client:
        assert (await client.post("/run", json={"at": "yesterday"})).status_code == 400
        assert (await client.post("/run", json={"at": "2026-01-31T00:00:00Z"})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"a": NaN}', b'"\xff"', b"[" * 5000 + b"]" * 5000, b'"\\ud800"'],
    ids=["broken", "NaN", "not UTF-8", "deep", "lone surrogate"],
)
async def test_a_body_that_is_not_json_is_refused(kit: StepKit, body: bytes) -> None:
    """400, whatever is wrong with it."""
    async with kit.client(step(echo)) as client:
        answer = await client.post("/run", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body_invalid")


async def test_a_body_that_is_too_large_is_refused(kit: StepKit) -> None:
    """413, with its length declared or not."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 1000

    async with kit.client(step(echo)) as client:
        for content in (b" " * 10_001, chunks()):
            answer = await client.post("/run", content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_what_is_not_there_is_told_in_the_same_shape(kit: StepKit) -> None:
    """404 with method and path, as they were sent; and 405 with the methods that are allowed."""
    async with kit.client(step(echo), step(echo, name="Get", method="GET", path="/rooms/:id")) as client:
        answer = await client.get("/nowhere")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert "nothing is served at GET /nowhere;" in answer.json()["error"]["message"]
        answer = await client.post("/rooms/a%2Fb%00/" + "x" * 1000)
        assert answer.status_code == 400  # NUL
        answer = await client.post("/rooms/a%2Fb/" + "x" * 1000)
        assert "nothing is served at POST /rooms/a%2Fb/xxx" in answer.json()["error"]["message"]
        assert len(answer.text) < 400
        answer = await client.get("/run")
        assert answer.json()["error"]["message"].startswith("/run does not take GET; it takes ")
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == {"OPTIONS", "POST"}
        answer = await client.post("/rooms/1")
        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD", "OPTIONS"})


async def test_an_author_may_refuse_with_litestars_exceptions(kit: StepKit) -> None:
    """A 4xx exception is meant for the client; the step rolls back as with any exception."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        await context.streams.chatMessage.set("refused", "1", {"text": "hi"})
        raise PermissionDeniedException("members only")

    answer = await kit.post(handler)
    assert (answer.status_code, answer.json()["error"]) == (403, {"code": "forbidden", "message": "members only"})
    assert await kit.query("select id from streams.chat_message where group_id = 'refused'") == []


@pytest.mark.parametrize(
    ("answer", "content_type", "body"),
    [
        ({"status": 200, "body": {"a": [1, None, "é"]}}, "application/json", '{"a":[1,null,"é"]}'.encode()),
        ({"status": 200, "body": "héllo"}, "text/plain; charset=utf-8", "héllo".encode()),
        ({"status": 200, "body": "<p>", "headers": {"Content-Type": "text/html"}}, "text/html", b"<p>"),
        ({"status": 200, "body": b"\x00\xff"}, "application/octet-stream", b"\x00\xff"),
        ({"status": 404, "body": "NaN"}, "text/plain; charset=utf-8", b"NaN"),
        ({"status": 200, "body": ["NaN"]}, "application/json", b'["NaN"]'),
        ({"status": 200}, None, b""),
        ({"status": 204, "body": {}}, None, b""),
    ],
)
async def test_an_answer_goes_out_as_what_it_is(
    kit: StepKit, answer: Any, content_type: str | None, body: bytes
) -> None:
    """JSON, text, bytes, nothing; a content-type that is given stays."""

    async def handler(req: dict[str, Any]) -> Any:
        return answer

    response = await kit.post(handler)
    assert response.status_code == answer["status"]
    assert response.headers.get("content-type") == content_type
    assert response.content == body


async def test_headers_may_have_several_values(kit: StepKit) -> None:
    """A list of values is that header several times."""

    async def handler(req: dict[str, Any]) -> Any:
        return {"status": 200, "headers": {"Set-Cookie": ["a=1", "b=2"], "X-One": "1"}}

    response = await kit.post(handler)
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers["x-one"] == "1"


async def test_a_header_cannot_smuggle_another(kit: StepKit) -> None:
    """Line breaks in a header are an invalid answer."""

    async def handler(req: dict[str, Any]) -> Any:
        return {"status": 200, "headers": {"x-name": req["body"]}}

    assert (await kit.post(handler, json="a\r\nset-cookie: evil=1")).status_code == 500


@pytest.mark.parametrize(
    ("headers", "trace_id"),
    [
        ({"x-trace-id": "abc-123"}, "abc-123"),
        (
            {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
            "4bf92f3577b34da6a3ce929d0e0e4736",
        ),
        ({"x-trace-id": "not valid\t"}, None),
        ({"traceparent": "00-00000000000000000000000000000000-00f067aa0ba902b7-01"}, None),
        ({}, None),
    ],
)
async def test_the_trace_id_is_the_callers_or_new(kit: StepKit, headers: Any, trace_id: str | None) -> None:
    """It is in the context and in the answer, also of a step that fails."""

    async def handler(req: dict[str, Any], context: Any) -> Any:
        if req["queryParams"]:
            raise ValueError
        return {"status": 200, "body": context.trace_id}

    async with kit.client(step(handler)) as client:
        answer = await client.post("/run", headers=headers)
        assert answer.headers["x-trace-id"] == answer.text
        assert trace_id in (None, answer.text) and len(answer.text) >= 7
        failed = await client.post("/run?fail=1", headers=headers)
        assert failed.status_code == 500 and failed.headers["x-trace-id"]


async def test_a_body_that_misses_its_response_schema_is_sent_and_logged(
    kit: StepKit, caplog: pytest.LogCaptureFixture
) -> None:
    """As in Motia, a responseSchema is documentation; the log says where the step departs from it."""

    async def handler(req: dict[str, Any]) -> Any:
        return {"status": 200, "body": req["body"]}

    schemas = {200: {"type": "object", "required": ["id"]}}
    with caplog.at_level(logging.WARNING):
        assert (await kit.post(handler, json={"id": 1}, response_schemas=schemas)).status_code == 200
        assert not caplog.records
        assert (await kit.post(handler, json={}, response_schemas=schemas)).status_code == 200
    assert "responseSchema" in caplog.text


async def test_the_openapi_document_has_the_steps(kit: StepKit) -> None:
    """Paths with their parameters, bodies and answers, and every reference leads somewhere."""

    class Author(BaseModel):
        name: str

    class Body(BaseModel):
        author: Author

    steps = (
        step(
            echo,
            name="PostMessage",
            description="Post one.",
            path="/rooms/:room",
            flows=("chat",),
            body_schema=Body,
            response_schemas={201: Body},
        ),
        step(echo, name="ListMessages", method="GET", path="/rooms/:id"),
    )
    async with kit.client(*steps) as client:
        response = await client.get("/schema/openapi.json")
    document = response.json()
    assert list(document["paths"]) == ["/rooms/{room}"]
    post = document["paths"]["/rooms/{room}"]["post"]
    assert (post["operationId"], post["description"], post["tags"]) == ("PostMessage", "Post one.", ["chat"])
    assert post["parameters"][0]["name"] == "room"
    assert {"201", "400", "default"} <= post["responses"].keys()
    assert document["paths"]["/rooms/{room}"]["get"]["operationId"] == "ListMessages"

    def follow(reference: str) -> Any:
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        return place

    body = follow(post["requestBody"]["content"]["application/json"]["schema"]["$ref"])
    assert follow(body["properties"]["author"]["$ref"])["properties"]["name"]["type"] == "string"
    assert "$defs" not in json.dumps(document)
