"""From bytes to the `req` dict."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import BodyInvalidError
from app.web.request import FIELDS_MAX, Incoming, read_headers, trace_id_of


def incoming(body: bytes = b"", content_type: str | None = None, query: bytes = b"") -> Incoming:
    headers = {} if content_type is None else {"content-type": content_type}
    return Incoming(body, headers, {}, query)


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b"", None, {}),
        (b"", "application/json", {}),
        (b'{"a": 1}', "application/json; charset=utf-8", {"a": 1}),
        (b'{"a": 1}', "application/vnd.api+json", {"a": 1}),
        (b'{"a": 1}', None, {"a": 1}),
        (b"just text", None, "just text"),
        (b'{"a": 1}', "text/plain", '{"a": 1}'),
        (b"a=1&b=2&b=3&c=", "application/x-www-form-urlencoded", {"a": "1", "b": ["2", "3"], "c": ""}),
        (b"12345678901234567890123", "application/json", 12345678901234567890123),
    ],
)
def test_a_body_is_what_its_content_type_says(body: bytes, content_type: str | None, value: Any) -> None:
    """JSON, a form, or text; {} if there is none; without a content type, JSON if it is JSON."""
    req = incoming(body, content_type).req()
    assert req["body"] == value
    assert req["rawBody"] == body.decode()


def test_each_req_is_fresh() -> None:
    """A handler that changes its request does not change what a second run gets."""
    request = incoming(b'{"a": [1]}', "application/json", b"q=1")
    first = request.req()
    first["body"]["a"].append(2)
    first["headers"].clear()
    first["queryParams"].clear()
    assert request.req()["body"] == {"a": [1]}
    assert request.req()["headers"] and request.req()["queryParams"]


def test_too_many_fields_are_refused() -> None:
    """A query string has a bound, as everything has."""
    with pytest.raises(BodyInvalidError, match="query string"):
        incoming(query=b"a&" * (FIELDS_MAX + 1)).req()


def test_repeated_headers_are_joined() -> None:
    """With commas, and cookies with semicolons."""
    raw = [(b"X-A", b"1"), (b"x-a", b"2"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    assert read_headers(raw) == {"x-a": "1, 2", "cookie": "a=1; b=2"}


def test_new_trace_ids_differ() -> None:
    """Without one from the caller, each request has its own."""
    assert trace_id_of({}) != trace_id_of({})
