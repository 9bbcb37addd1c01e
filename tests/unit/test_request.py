"""From bytes to the `req` dict."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tidelog.errors import BodyInvalidError, QueryInvalidError
from tidelog.web.request import FIELDS_MAX, Incoming, read_headers, trace_id_of

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


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
    fields = b"a&" * (FIELDS_MAX + 1)
    with pytest.raises(QueryInvalidError, match="more than 1000 fields"):
        incoming(query=fields).req()
    with pytest.raises(BodyInvalidError, match="more than 1000 fields"):
        incoming(fields, FORM).req()


@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        (b'{"a": "\\u0000"}', JSON, "NUL"),
        (b'[{"\\u0000": 1}]', None, "NUL"),
        (b"a\0b", "text/plain", "NUL"),
        (b"a=%00", FORM, "NUL"),
        (b"a\0=1", FORM, "NUL"),
        (b'{"a": [1e400]}', JSON, "beyond a double"),
        (b"-1e400", None, "beyond a double"),
        (b"[1" + b"0" * 400 + b".5]", JSON, "beyond a double"),
        (b"[" + b"1" * 5000 + b"]", JSON, "not JSON"),
        (b"[" * 1200 + b"]" * 1200, JSON, "not JSON"),
        (b"[NaN]", JSON, "not JSON"),
        (b'"\\ud800"', JSON, "not JSON"),
        (b"a=%ff", FORM, "no UTF-8"),
        (b"a=%ED%A0%80", FORM, "no UTF-8"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_a_handler_has_it(
    body: bytes, content_type: str | None, why: str
) -> None:
    """Characters that Postgres has not, numbers that are none, and what is too long or deep for JSON's readers."""
    with pytest.raises(BodyInvalidError, match=why):
        incoming(body, content_type).req()


@pytest.mark.parametrize("query", [b"a=%00", b"%00=1", b"a=\0", b"a=%ff", b"a=\xff", b"a=%ED%A0%80", b"%C3=1"])
def test_a_query_string_that_is_no_text_is_refused(query: bytes) -> None:
    """Two values that differ never become one."""
    with pytest.raises(QueryInvalidError, match=r"NUL|UTF-8"):
        incoming(query=query).req()


def test_a_query_string_may_be_escaped_or_not() -> None:
    """A plus is a space, as in forms; UTF-8 is UTF-8, however it is written."""
    assert incoming(query="a=é+1&b=%C3%A9%2B1".encode()).req()["queryParams"] == {"a": "é 1", "b": "é+1"}


def test_of_a_repeated_name_the_last_counts() -> None:
    """As in jsonb, and in JavaScript: nobody reads it differently."""
    assert incoming(b'{"a": 1, "b": 2, "a": 3}', JSON).req()["body"] == {"a": 3, "b": 2}


def test_repeated_headers_are_joined() -> None:
    """With commas, and cookies with semicolons."""
    raw = [(b"X-A", b"1"), (b"x-a", b"2"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    assert read_headers(raw) == {"x-a": "1, 2", "cookie": "a=1; b=2"}


def test_new_trace_ids_differ() -> None:
    """Without one from the caller, each request has its own."""
    assert trace_id_of({}) != trace_id_of({})


def test_processes_that_are_forked_have_trace_ids_of_their_own() -> None:
    """As a server's that loads the application before it forks its workers."""
    script = (
        "import os; from tidelog.logs.request import new_trace_id; child = os.fork(); "
        "child and os.waitpid(child, 0); print(new_trace_id(), flush=True)"  # one after the other
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    assert first != second
