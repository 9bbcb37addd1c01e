"""From what a handler returned to bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from h11._headers import _field_value_re as h11_value
from pydantic import BaseModel
from uvicorn.protocols.http.httptools_impl import HEADER_VALUE_RE as UVICORN_REFUSES

from tidelog.errors import AnswerInvalidError
from tidelog.web.answer import HEADERS_MAX, HEADERS_SIZE_MAX_BYTES, encode_answer


class Message(BaseModel):
    text: str


@pytest.mark.parametrize(
    ("body", "encoded"),
    [
        (Message(text="hi"), b'{"text":"hi"}'),
        ([Message(text="hi")], b'[{"text":"hi"}]'),
        ({"at": datetime(2026, 1, 2, tzinfo=UTC)}, b'{"at":"2026-01-02T00:00:00Z"}'),
        (False, b"false"),
        (0, b"0"),
        ({"x": "Infinity"}, b'{"x":"Infinity"}'),
    ],
)
def test_a_body_is_whatever_pydantic_can_turn_into_json(body: Any, encoded: bytes) -> None:
    """Models, dates, plain values; false and 0 are bodies, too."""
    answer = encode_answer({"status": 200, "body": body})
    assert answer.body == encoded
    assert (b"content-length", b"%d" % len(encoded)) in answer.headers


def test_a_whole_number_is_a_headers_value() -> None:
    """Alone or in a list, as Motia's server takes it; true and false are none."""
    answer = encode_answer({"status": 204, "headers": {"x-total": 12, "x": [1, "a"]}})
    assert answer.headers == [(b"x-total", b"12"), (b"x", b"1"), (b"x", b"a")]
    with pytest.raises(AnswerInvalidError):
        encode_answer({"status": 204, "headers": {"x": True}})


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        (200, {}),
        {},
        {"body": 1},
        {"status": "200"},
        {"status": True},
        {"status": 100},
        {"status": 600},
        {"status": 200, "bodyy": 1},
        {"status": 200, "body": object()},
        {"status": 200, "body": {"x": [float("inf")]}},
        {"status": 200, "body": float("nan")},
        {"status": 200, "body": "\ud800"},
        {"status": 200, "headers": []},
        {"status": 200, "headers": [("a", "b")]},
        {"status": 200, "headers": {"a b": "c"}},
        {"status": 200, "headers": {"a": 1.5}},
        {"status": 200, "headers": {"a": ["b", None]}},
        {"status": 200, "headers": {"a": "b\nc"}},
        {"status": 200, "headers": {"a": "\u20ac"}},
        {"status": 200, "headers": {"Content-Length": "3"}},
        {"status": 200, "headers": {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}},
        {"status": 200, "headers": {"server": "mine"}},
        {"status": 200, "headers": {"X-Trace-Id": "mine"}},
        {"status": 200, "headers": {"content-type": ["text/html", "text/plain"]}},
        {"status": 200, "headers": {"Location": "/a", "location": "/b"}},
        {"status": 200, "headers": {"a": "b" * HEADERS_SIZE_MAX_BYTES}},
        {"status": 200, "headers": {"a": [""] * (HEADERS_MAX + 1)}},
    ],
)
def test_what_cannot_be_sent_is_refused(answer: Any) -> None:
    """Before anything was sent, and so before anything was committed."""
    if answer == {"status": 200, "headers": []}:
        assert encode_answer(answer).status == 200  # empty is empty
        return
    with pytest.raises(AnswerInvalidError):
        encode_answer(answer)


def test_a_body_that_contains_itself_is_refused() -> None:
    """No endless recursion."""
    body: list[Any] = []
    body.append(body)
    with pytest.raises(AnswerInvalidError):
        encode_answer({"status": 200, "body": body})


@pytest.mark.parametrize("place", ["{}", "a{}b", "{}b", "a{}"])
def test_a_header_that_is_accepted_is_one_that_the_server_sends(place: str) -> None:
    """Whatever character is in it: uvicorn with httptools or with h11. No other is refused but for that."""
    for code in range(256):
        value = place.format(chr(code))
        try:
            ((_, encoded),) = encode_answer({"status": 204, "headers": {"x": value}}).headers
        except AnswerInvalidError:
            assert UVICORN_REFUSES.search(value.encode("latin-1")), code
            continue
        assert not UVICORN_REFUSES.search(encoded), code
        assert h11_value.fullmatch(encoded), code
        assert encoded == value.strip(" \t").encode("latin-1")


@pytest.mark.parametrize(("status", "length"), [(204, None), (205, b"0"), (304, None)])
def test_an_answer_whose_status_has_no_body_is_sent_without_one(status: int, length: bytes | None) -> None:
    """A client would take it for the beginning of the next answer."""
    answer = encode_answer({"status": status, "body": {"a": 1}})
    assert answer.body == b""
    assert dict(answer.headers).get(b"content-length") == length
    assert b"content-type" not in dict(answer.headers)
